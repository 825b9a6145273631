"""Maps at the pixels of their image, in two launches: where each pixel lies between cells, then the pixels."""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tuning import launch, on_device

# The bits that axes_kernel sets for boxes that are wrong, and what they must be.
NOT_SEPARABLE: Final = tl.constexpr(1)
NOT_ORDERED: Final = tl.constexpr(2)
_NEEDS: Final = ("separable (x from the column, y from the row)", "ordered (x0 < x1, y0 < y1, centers ascending)")


@triton.jit
def axes_kernel(boxes, left, share, edges, wrong, h, w, H, W, BLOCK: tl.constexpr, CHUNK: tl.constexpr):
    """Axis 0 the rows, 1 the columns. A pixel of an axis reads cell[left] + share * (cell[left + 1] - cell[left]);
    `left` and `share` are [H + W], `edges` [2, 2] where the boxes begin and end, `wrong` [2] what they are not."""
    axis = tl.program_id(1)
    cells, pixels = tl.where(axis == 0, h, w), tl.where(axis == 0, H, W)
    stride = tl.where(axis == 0, w * 4, 4)
    starts = boxes + tl.where(axis == 0, 1, 0)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    at = pixel.to(tl.float32) + 0.5
    c = tl.arange(0, CHUNK)
    passed = tl.zeros([BLOCK], tl.int32)
    begin = tl.full([CHUNK], float("inf"), tl.float32)
    end = tl.full([CHUNK], float("-inf"), tl.float32)
    for first in range(0, cells, CHUNK):
        cell = first + c
        inside = cell < cells
        start = tl.load(starts + cell * stride, mask=inside, other=0.0)
        stop = tl.load(starts + cell * stride + 2, mask=inside, other=0.0)
        begin = tl.where(inside & (start < begin), start, begin)
        end = tl.where(inside & (stop > end), stop, end)
        # pixels from the centers of the inner cells on read the cells after them
        inner = (cell > 0) & (cell + 1 < cells)
        # twice the distance from the center, by differences that are exact near it
        beyond = (at[:, None] - start[None, :]) + (at[:, None] - stop[None, :]) >= 0
        passed += tl.sum((inner[None, :] & beyond).to(tl.int32), 1)
    near = starts + passed * stride
    far = starts + tl.minimum(passed + 1, cells - 1) * stride
    start, stop = tl.load(near), tl.load(near + 2)
    span = (tl.load(far) - start) + (tl.load(far + 2) - stop)
    ratio = tl.div_rn((at - start) + (at - stop), tl.where(span > 0, span, 1.0))
    ratio = tl.where(span > 0, tl.minimum(tl.maximum(ratio, 0.0), 1.0), 0.0)
    offset = tl.where(axis == 0, 0, H)
    tl.store(left + offset + pixel, passed, mask=pixel < pixels)
    tl.store(share + offset + pixel, ratio, mask=pixel < pixels)
    if tl.program_id(0) == 0:
        tl.store(edges + 2 * axis, tl.min(begin, 0))
        tl.store(edges + 2 * axis + 1, tl.max(end, 0))
        bad = tl.zeros([BLOCK], tl.int32)
        for first in range(0, h * w, BLOCK):
            cell = first + tl.arange(0, BLOCK)
            inside = cell < h * w
            index = tl.where(axis == 0, cell // w, cell % w)
            own = boxes + cell * 4 + tl.where(axis == 0, 1, 0)
            start, stop = tl.load(own, mask=inside, other=0.0), tl.load(own + 2, mask=inside, other=1.0)
            shared = starts + index * stride
            same = (start == tl.load(shared, mask=inside, other=0.0)) & (
                stop == tl.load(shared + 2, mask=inside, other=1.0)
            )
            follower = inside & (index + 1 < cells)
            # written so that a NaN fails
            ascending = start + stop < tl.load(shared + stride, mask=follower, other=float("inf")) + tl.load(
                shared + stride + 2, mask=follower, other=float("inf")
            )
            bad = bad | tl.where(same, 0, NOT_SEPARABLE) | tl.where((start < stop) & ascending, 0, NOT_ORDERED)
        tl.store(wrong + axis, tl.max(bad & NOT_SEPARABLE, 0) + tl.max(bad & NOT_ORDERED, 0))


@triton.jit
def load_cells(at, inside, SANITIZE: tl.constexpr):
    """Cells as float32. With SANITIZE NaN becomes 0 and infinities become finite, so that 0 times the value is 0."""
    x = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    if SANITIZE:
        x = tl.where(x == x, tl.minimum(tl.maximum(x, -3e38), 3e38), 0.0)
    return x


@triton.jit
def values_at(map, left, share, y, x, inside, h, w, H, SANITIZE: tl.constexpr):
    """A map's values at pixels (y, x), bilinear between cells."""
    column = tl.load(left + H + x, mask=inside, other=0)
    column_share = tl.load(share + H + x, mask=inside, other=0.0)
    row = tl.load(left + y, mask=inside, other=0)
    row_share = tl.load(share + y, mask=inside, other=0.0)
    next_column = tl.minimum(column + 1, w - 1)
    upper, lower = map + row * w, map + tl.minimum(row + 1, h - 1) * w
    here = (1 - row_share) * load_cells(upper + column, inside, SANITIZE) + row_share * load_cells(
        lower + column, inside, SANITIZE
    )
    beside = (1 - row_share) * load_cells(upper + next_column, inside, SANITIZE)
    beside += row_share * load_cells(lower + next_column, inside, SANITIZE)
    return (1 - column_share) * here + column_share * beside


@triton.jit
def upsample_kernel(maps, out, left, share, h, w, H, W, BLOCK: tl.constexpr):
    """float32 [T, H, W], BLOCK pixels of one map a program."""
    t = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < H * W
    value = values_at(maps + t * h * w, left, share, pixel // W, pixel % W, inside, h, w, H, False)
    tl.store(out + t * H * W + pixel, value, mask=inside)


@triton.jit
def overlay_kernel(maps, out, image, table, left, share, edges, h, w, H, W, alpha, BLOCK: tl.constexpr):
    """uint8 [T, H, W, 3], BLOCK pixels of one map a program."""
    t = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < H * W
    y, x = pixel // W, pixel % W
    value = values_at(maps + t * h * w, left, share, y, x, inside, h, w, H, True)
    level = (tl.minimum(tl.maximum(value, 0.0), 1.0) * 255 + 0.5).to(tl.int32)
    row_at, column_at = y.to(tl.float32) + 0.5, x.to(tl.float32) + 0.5
    covered = (row_at >= tl.load(edges)) & (row_at <= tl.load(edges + 1))
    covered = covered & (column_at >= tl.load(edges + 2)) & (column_at <= tl.load(edges + 3))
    for c in tl.static_range(3):
        below = tl.load(image + pixel * 3 + c, mask=inside, other=0)
        color = tl.load(table + level * 3 + c, mask=inside, other=0).to(tl.float32)
        blended = ((1 - alpha) * below.to(tl.float32) + (alpha * color + 0.5)).to(tl.int32)
        tl.store(out + (t * H * W + pixel) * 3 + c, tl.where(covered, blended.to(tl.uint8), below), mask=inside)


def _axes(caller: str, boxes: Tensor, height: int, width: int, check: bool) -> tuple[Tensor, Tensor, Tensor]:
    """`left`, `share` and `edges` of axes_kernel; with `check` it synchronizes and raises for wrong boxes."""
    h, w = boxes.shape[:2]
    left = boxes.new_empty(height + width, dtype=torch.int32)
    share, edges = boxes.new_empty(height + width), boxes.new_empty(2, 2)
    wrong = boxes.new_empty(2, dtype=torch.int32)
    launch_config = launch("overlay_axes")
    with on_device(boxes):
        axes_kernel[(triton.cdiv(max(height, width), launch_config["BLOCK"]), 2)](
            boxes.contiguous(), left, share, edges, wrong, h, w, height, width, **launch_config
        )
    found = wrong.tolist() if check else []
    for bit, need in zip((NOT_SEPARABLE.value, NOT_ORDERED.value), _NEEDS, strict=True):
        if any(value & bit for value in found):
            raise ValueError(f"{caller}: boxes must be {need}, got others")
    return left, share, edges


def upsample(maps: Tensor, boxes: Tensor, height: int, width: int, check: bool) -> Tensor:
    """See `dcam_fast.ops.upsample`."""
    left, share, _ = _axes("upsample", boxes, height, width, check)
    count, h, w = maps.shape
    out = maps.new_empty((count, height, width), dtype=torch.float32)
    if count:
        launch_config = launch("overlay_pixels")
        with on_device(maps):
            upsample_kernel[(triton.cdiv(height * width, launch_config["BLOCK"]), count)](
                maps.contiguous(), out, left, share, h, w, height, width, **launch_config
            )
    return out


def overlay(maps: Tensor, image: Tensor, boxes: Tensor, colormap: Tensor, alpha: float, check: bool) -> Tensor:
    """See `dcam_fast.ops.overlay`."""
    height, width = image.shape[:2]
    left, share, edges = _axes("overlay", boxes, height, width, check)
    count, h, w = maps.shape
    out = image.new_empty((count, *image.shape))
    if count:
        launch_config = launch("overlay_pixels")
        with on_device(maps):
            overlay_kernel[(triton.cdiv(height * width, launch_config["BLOCK"]), count)](
                maps.contiguous(), out, image.contiguous(), colormap.contiguous(), left, share, edges,
                h, w, height, width, alpha, **launch_config,
            )  # fmt: skip
    return out
