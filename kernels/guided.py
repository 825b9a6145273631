"""The guided filter: three launches, a chunk of cells a program, so that maps of any size spread over the whole GPU.

What the windows' colours say is computed once a call. Then every map is fitted in each window, and each cell takes the
mean of the fits around it. Sums over windows are direct, so that nothing cancels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tuning import launch, on_device


@triton.jit
def cells_of(chunk, height, width, CHUNK: tl.constexpr):
    """Cells of a chunk: their indices, whether they are any, their rows and columns."""
    i = chunk * CHUNK + tl.arange(0, CHUNK)
    return i, i < height * width, i // width, i % width


@triton.jit
def count_of(row, column, height, width, radius):
    """Cells in a window, which is cut at the border."""
    rows = tl.minimum(row + radius + 1, height) - tl.maximum(row - radius, 0)
    return rows * (tl.minimum(column + radius + 1, width) - tl.maximum(column - radius, 0))


@triton.jit
def is_seen(row, column, dy, dx, height, width):
    """Whether the cell dy below and dx beside is one."""
    return (row + dy >= 0) & (row + dy < height) & (column + dx >= 0) & (column + dx < width)


@triton.jit(do_not_specialize=["height", "width", "radius"])
def guide_kernel(guide, statistics, height, width, radius, epsilon, CHUNK: tl.constexpr):
    """Of the colours in each window of guide [3, h, w]: their mean, and the inverse of their covariance plus epsilon:
    [9, h, w]. In float64, for in a window of one colour nearly all of it cancels."""
    i, inside, row, column = cells_of(tl.program_id(0), height, width, CHUNK)
    cells = height * width
    r = tl.zeros([CHUNK], tl.float64)
    g, b, rr, rg, rb, gg, gb, bb = r, r, r, r, r, r, r, r
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            seen = inside & is_seen(row, column, dy, dx, height, width)
            at = guide + i + dy * width + dx
            red = tl.load(at, mask=seen, other=0.0).to(tl.float64)
            green = tl.load(at + cells, mask=seen, other=0.0).to(tl.float64)
            blue = tl.load(at + 2 * cells, mask=seen, other=0.0).to(tl.float64)
            r += red
            g += green
            b += blue
            rr += red * red
            rg += red * green
            rb += red * blue
            gg += green * green
            gb += green * blue
            bb += blue * blue
    share = 1.0 / count_of(row, column, height, width, radius).to(tl.float64)
    r, g, b = r * share, g * share, b * share
    ridge = tl.cast(epsilon, tl.float64)
    rr, rg, rb = rr * share - r * r + ridge, rg * share - r * g, rb * share - r * b
    gg, gb, bb = gg * share - g * g + ridge, gb * share - g * b, bb * share - b * b + ridge
    c0, c1, c2 = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    scale = 1.0 / (rr * c0 + rg * c1 + rb * c2)
    into = statistics + i
    tl.store(into, r.to(tl.float32), mask=inside)
    tl.store(into + cells, g.to(tl.float32), mask=inside)
    tl.store(into + 2 * cells, b.to(tl.float32), mask=inside)
    tl.store(into + 3 * cells, (c0 * scale).to(tl.float32), mask=inside)
    tl.store(into + 4 * cells, (c1 * scale).to(tl.float32), mask=inside)
    tl.store(into + 5 * cells, (c2 * scale).to(tl.float32), mask=inside)
    tl.store(into + 6 * cells, ((rr * bb - rb * rb) * scale).to(tl.float32), mask=inside)
    tl.store(into + 7 * cells, ((rg * rb - rr * gb) * scale).to(tl.float32), mask=inside)
    tl.store(into + 8 * cells, ((rr * gg - rg * rg) * scale).to(tl.float32), mask=inside)


@triton.jit(do_not_specialize=["height", "width", "radius"])
def fit_kernel(maps, guide, statistics, fits, height, width, radius, CHUNK: tl.constexpr):
    """Map t of [T, h, w] as a linear function of the colours in each window: slopes and an offset, [T, 4, h, w]."""
    i, inside, row, column = cells_of(tl.program_id(1), height, width, CHUNK)
    cells = height * width
    t = tl.program_id(0).to(tl.int64)
    level = tl.zeros([CHUNK], tl.float32)
    r, g, b = level, level, level
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            seen = inside & is_seen(row, column, dy, dx, height, width)
            at = i + dy * width + dx
            value = tl.load(maps + t * cells + at, mask=seen, other=0.0).to(tl.float32)
            level += value
            r += value * tl.load(guide + at, mask=seen, other=0.0)
            g += value * tl.load(guide + cells + at, mask=seen, other=0.0)
            b += value * tl.load(guide + 2 * cells + at, mask=seen, other=0.0)
    count = count_of(row, column, height, width, radius).to(tl.float32)
    level = tl.div_rn(level, count)
    of = statistics + i
    mean_r = tl.load(of, mask=inside, other=0.0)
    mean_g = tl.load(of + cells, mask=inside, other=0.0)
    mean_b = tl.load(of + 2 * cells, mask=inside, other=0.0)
    r = tl.div_rn(r, count) - level * mean_r
    g = tl.div_rn(g, count) - level * mean_g
    b = tl.div_rn(b, count) - level * mean_b
    rg = tl.load(of + 4 * cells, mask=inside, other=0.0)
    rb = tl.load(of + 5 * cells, mask=inside, other=0.0)
    gb = tl.load(of + 7 * cells, mask=inside, other=0.0)
    along_r = tl.load(of + 3 * cells, mask=inside, other=0.0) * r + rg * g + rb * b
    along_g = rg * r + tl.load(of + 6 * cells, mask=inside, other=0.0) * g + gb * b
    along_b = rb * r + gb * g + tl.load(of + 8 * cells, mask=inside, other=0.0) * b
    into = fits + 4 * t * cells + i
    tl.store(into, along_r, mask=inside)
    tl.store(into + cells, along_g, mask=inside)
    tl.store(into + 2 * cells, along_b, mask=inside)
    tl.store(into + 3 * cells, level - along_r * mean_r - along_g * mean_g - along_b * mean_b, mask=inside)


@triton.jit(do_not_specialize=["height", "width", "radius"])
def apply_kernel(fits, guide, out, height, width, radius, CHUNK: tl.constexpr):
    """What the mean of the fits around each cell says of its colour, [T, h, w]."""
    i, inside, row, column = cells_of(tl.program_id(1), height, width, CHUNK)
    cells = height * width
    t = tl.program_id(0).to(tl.int64)
    r = tl.zeros([CHUNK], tl.float32)
    g, b, offset = r, r, r
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            seen = inside & is_seen(row, column, dy, dx, height, width)
            at = fits + 4 * t * cells + i + dy * width + dx
            r += tl.load(at, mask=seen, other=0.0)
            g += tl.load(at + cells, mask=seen, other=0.0)
            b += tl.load(at + 2 * cells, mask=seen, other=0.0)
            offset += tl.load(at + 3 * cells, mask=seen, other=0.0)
    total = r * tl.load(guide + i, mask=inside, other=0.0) + offset
    total += g * tl.load(guide + cells + i, mask=inside, other=0.0)
    total += b * tl.load(guide + 2 * cells + i, mask=inside, other=0.0)
    value = tl.div_rn(total, count_of(row, column, height, width, radius).to(tl.float32))
    # a NaN stays one, so that refine finds it
    tl.store(out + t * cells + i, tl.where(value < 0, 0.0, value), mask=inside)


def guided_filter(maps: Tensor, guide: Tensor, radius: int, epsilon: float) -> Tensor:
    """See `dcam_fast.ops.guided_filter`."""
    count, height, width = maps.shape
    out = maps.new_empty(maps.shape, dtype=torch.float32)
    if count == 0:
        return out
    colours = guide.contiguous()
    statistics = out.new_empty(9, height, width)
    fits = out.new_empty(count, 4, height, width)
    how = launch("guided_filter", cells=height * width)
    chunks = triton.cdiv(height * width, how["CHUNK"])
    shape = (height, width, radius)
    with on_device(out):
        guide_kernel[(chunks,)](colours, statistics, *shape, epsilon, **how)
        fit_kernel[(count, chunks)](maps.contiguous(), colours, statistics, fits, *shape, **how)
        apply_kernel[(count, chunks)](fits, colours, out, *shape, **how)
    return out
