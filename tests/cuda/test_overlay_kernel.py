"""The CUDA kernels of overlay and upsample against the reference, on the host emulator."""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch import Tensor

from dcam_fast.ops import reference

TOLERANCE = 5e-7  # as in tests/ops/test_overlay.py
GRIDS = [(1, 1), (1, 7), (6, 1), (2, 2), (9, 13), (27, 27)]


def grid_boxes(h: int, w: int, cell: float, left: float = 0.0, top: float = 0.0, gap: float = 0.0) -> Tensor:
    """[h, w, 4]: square boxes, `gap` pixels between them."""
    x = left + torch.arange(w) * (cell + gap)
    y = top + torch.arange(h) * (cell + gap)
    corners = torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1)
    return torch.cat([corners, corners + cell], -1).float().contiguous()


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr() if tensor is not None else None)


def run(library, maps, boxes, size, image=None, table=None, alpha=0.0, out=None):
    """overlay into `out`, or upsample where there is no image; poisoned outputs."""
    values = torch.full((len(maps), *size), torch.nan) if image is None else None
    if image is not None and out is None:
        out = torch.full((len(maps), *size, 3), 99, dtype=torch.uint8)
    numbers = [ctypes.c_int64(n) for n in (*maps.shape, *size)]
    pointers = [pointer(t) for t in (maps, image, boxes, table, values, out)]
    assert library.overlay(*pointers, *numbers, ctypes.c_float(alpha)) == 0
    return out if values is None else values


def assert_blended(got: Tensor, expected: Tensor) -> None:
    """A value at the edge of a level may round to the next one."""
    assert got.shape == expected.shape
    difference = (got.int() - expected.int()).abs()
    if difference.numel():
        assert difference.max() <= 1
        assert (difference > 0).float().mean() <= 1e-3


# widths whose rows are no multiple of a group, of 16 bytes or of a tile; more than a tile
@pytest.mark.parametrize("size", [(61, 83), (64, 80), (1, 1), (3, 5), (5, 1700)], ids=str)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("placement", [(4.0, 0.0, 0.0, 0.0), (3.5, 5.25, -4.75, 0.0), (2.0, 3.0, 3.0, 2.5)])
def test_against_reference(emulated, random, grid, size, placement):
    maps = torch.rand(3, *grid, generator=random) * 1.6 - 0.3
    boxes = grid_boxes(*grid, *placement)
    image = torch.randint(0, 256, (*size, 3), generator=random, dtype=torch.uint8)
    expected = reference.upsample(maps.double(), boxes, size)
    assert (run(emulated, maps, boxes, size) - expected).abs().max() <= TOLERANCE
    table = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, 3).contiguous()
    for alpha in (0.0, 0.37, 1.0):
        got = run(emulated, maps, boxes, size, image, table, alpha)
        assert_blended(got, reference.overlay(maps.double(), image, boxes, table, alpha))


@pytest.mark.parametrize("shift", [0, 1, 4, 8])
def test_unaligned(emulated, random, shift):
    """An image and a result that begin anywhere; nothing is written beside the result."""
    maps = torch.rand(2, 4, 5, generator=random)
    boxes = grid_boxes(4, 5, 8)
    table = torch.randint(0, 256, (256, 3), generator=random, dtype=torch.uint8)
    room = torch.randint(0, 256, (shift + 32 * 48 * 3,), generator=random, dtype=torch.uint8)
    image = room[shift:].view(32, 48, 3)
    buffer = torch.full((shift + 2 * image.numel() + 64,), 99, dtype=torch.uint8)
    target = buffer[shift : shift + 2 * image.numel()].view(2, 32, 48, 3)
    run(emulated, maps, boxes, (32, 48), image, table, 0.5, target)
    expected = run(emulated, maps, boxes, (32, 48), image.clone(), table, 0.5)
    assert torch.equal(target, expected)
    assert (buffer[:shift] == 99).all()
    assert (buffer[shift + target.numel() :] == 99).all()


def test_no_maps(emulated):
    assert run(emulated, torch.empty(0, 2, 2), grid_boxes(2, 2, 4), (8, 8)).shape == (0, 8, 8)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -1e30])
def test_boxes_that_are_none_read_no_cell_that_is_none(emulated, random, bad):
    """Unchecked, their pixels are what they may be; a cell beyond the map would be infinite here, and painted white."""
    boxes = grid_boxes(5, 6, 4.0)
    boxes[2, 3] = bad
    boxes[0, :, 2] = bad
    boxes[:, 0, 1] = boxes[:, 0, 1].flip(0)
    room = torch.full((32 + 30 + 32,), torch.inf)
    maps = room[32:62].view(1, 5, 6)
    maps.copy_(torch.rand(1, 5, 6, generator=random) * 0.9)
    image = torch.randint(0, 256, (20, 24, 3), generator=random, dtype=torch.uint8)
    table = torch.zeros(256, 3, dtype=torch.uint8)
    table[255] = 255  # only infinite cells are so high
    out = run(emulated, maps, boxes, (20, 24), image, table, 1.0)
    assert ((out == 0) | (out == image)).all()


def test_unseen_pixels_keep_the_image(emulated, random):
    image = torch.full((30, 40, 3), 200, dtype=torch.uint8)
    table = torch.zeros(256, 3, dtype=torch.uint8)
    boxes = grid_boxes(2, 2, 4, left=10, top=5, gap=6)
    out = run(emulated, torch.rand(1, 2, 2, generator=random), boxes, (30, 40), image, table, 1.0)[0]
    visible = torch.zeros(30, 40, dtype=torch.bool)
    visible[5:19, 10:24] = True
    assert (out[visible] == 0).all()
    assert (out[~visible] == 200).all()


def test_values(emulated):
    """Clipping, rounding halves up, NaN and infinities."""
    cells = torch.tensor([[torch.nan, -torch.inf, -3.0, 0.0, 0.5, 1.0, 2.0, torch.inf]])[None]
    image = torch.full((1, 8, 3), 101, dtype=torch.uint8)
    table = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, 3).contiguous()
    boxes = grid_boxes(1, 8, 1)
    colors = run(emulated, cells, boxes, (1, 8), image, table, 1.0)
    assert colors[0, 0, :, 0].tolist() == [0, 0, 0, 0, 128, 255, 255, 255]
    blended = run(emulated, cells, boxes, (1, 8), image, table, 0.5)
    assert blended[0, 0, :, 1].tolist() == [51, 51, 51, 51, 115, 178, 178, 178]


def test_any_order(emulated, random):
    maps = torch.rand(2, 6, 7, generator=random)
    image = torch.randint(0, 256, (33, 71, 3), generator=random, dtype=torch.uint8)
    table = torch.randint(0, 256, (256, 3), generator=random, dtype=torch.uint8)
    results = []
    for order, seed in ((0, 0), (1, 0), (2, 1), (2, 2)):
        emulated.set_order(order, seed)
        results.append(run(emulated, maps, grid_boxes(6, 7, 5.5), (33, 71), image, table, 0.4))
    emulated.set_order(0, 0)
    assert all(torch.equal(result, results[0]) for result in results)
