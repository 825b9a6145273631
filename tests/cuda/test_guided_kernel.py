"""The CUDA kernels of guided_filter against the reference, on a host that stands in for the GPU."""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch import Tensor

from dcam_fast import reference

TOLERANCE = 2e-5  # as in tests/ops/test_guided.py
SHARED_CELLS = 3072  # more lie in global memory


def scene(random: torch.Generator, h: int, w: int) -> Tensor:
    """Colours with flat parts, an edge and noise."""
    colours = torch.rand(3, 1, 1, generator=random).repeat(1, h, w)
    colours[:, :, w // 3 :] = torch.rand(3, 1, 1, generator=random)
    colours[:, h // 2 :] += 0.1 * torch.rand(3, h - h // 2, w, generator=random)
    return colours.clamp(max=1)


def run(library: ctypes.CDLL, maps: Tensor, guide: Tensor, radius: int, epsilon: float) -> Tensor:
    """Into a poisoned output with guards on either side."""
    buffer = torch.full((maps.numel() + 64,), torch.nan)
    out = buffer[32 : 32 + maps.numel()]
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (maps, guide, out)]
    sizes = [ctypes.c_int64(n) for n in maps.shape]
    assert library.guided_filter(*pointers, *sizes, ctypes.c_int(radius), ctypes.c_float(epsilon)) == 0
    assert buffer[:32].isnan().all()
    assert buffer[32 + maps.numel() :].isnan().all()
    return out.view(maps.shape)


@pytest.mark.parametrize("radius", [1, 3, 8])
@pytest.mark.parametrize("grid", [(1, 1), (1, 6), (7, 1), (2, 2), (9, 13), (27, 27), (33, 40)], ids=str)
def test_against_reference(emulated, random, grid, radius):
    maps, guide = torch.rand(2, *grid, generator=random) ** 3, scene(random, *grid)
    for epsilon in (1e-4, 1e-2):
        expected = reference.guided_filter(maps.double(), guide, radius, epsilon)
        assert (run(emulated, maps, guide, radius, epsilon) - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("grid", [(48, 64), (61, 53)], ids=str)
def test_beside_and_beyond_shared_memory(emulated, random, grid):
    """The largest map in shared memory, and one that lies beyond."""
    assert (grid[0] * grid[1] > SHARED_CELLS) == (grid == (61, 53))
    maps, guide = torch.rand(2, *grid, generator=random), scene(random, *grid)
    expected = reference.guided_filter(maps.double(), guide, 2, 1e-3)
    assert (run(emulated, maps, guide, 2, 1e-3) - expected).abs().max() <= TOLERANCE


def test_no_maps(emulated):
    assert run(emulated, torch.empty(0, 4, 4), torch.rand(3, 4, 4), 3, 1e-4).shape == (0, 4, 4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_map_touches_no_other(emulated, random, bad):
    maps, guide = torch.rand(3, 8, 9, generator=random), scene(random, 8, 9)
    clean = run(emulated, maps, guide, 3, 1e-4)
    maps[1, 4, 4] = bad
    got = run(emulated, maps, guide, 3, 1e-4)
    assert torch.equal(got[[0, 2]], clean[[0, 2]])
    assert not got[1, 4, 4].isfinite()  # refine, which comes next, finds it


def test_any_order(emulated, random):
    maps, guide = torch.rand(2, 12, 11, generator=random), scene(random, 12, 11)
    results = []
    for order, seed in ((0, 0), (1, 0), (2, 1), (2, 2)):
        emulated.set_order(order, seed)
        results.append(run(emulated, maps, guide, 3, 1e-4))
    emulated.set_order(0, 0)
    assert all(torch.equal(result, results[0]) for result in results)
