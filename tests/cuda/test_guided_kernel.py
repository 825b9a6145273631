"""The CUDA kernels of guided_filter against the reference, on the host emulator."""

from __future__ import annotations

import ctypes

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dcam_fast.config import MAX_RADIUS, MIN_EPSILON
from dcam_fast.ops import reference

TOLERANCE = 2e-5  # as in tests/ops/test_guided.py
GRIDS = [(1, 1), (1, 6), (7, 1), (2, 2), (3, 5), (9, 13), (17, 33), (27, 27), (48, 48)]
INVALID = 1  # cudaErrorInvalidValue
SM_90 = 227 * 1024  # bytes of shared memory that a block may have


def scene(seed: int, h: int, w: int) -> Tensor:
    """Colors with flat parts, edges and noise."""
    random = torch.Generator().manual_seed(seed)
    colors = torch.rand(3, 1, 1, generator=random).repeat(1, h, w)
    colors[:, h // 3 :, w // 4 :] = torch.rand(3, 1, 1, generator=random)
    colors[:, : h // 2, w // 2 :] += 0.1 * torch.rand(3, h // 2, w - w // 2, generator=random)
    return colors.clamp(max=1)


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


class Guided:
    """The launcher, with its buffers poisoned first."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library

    def __call__(self, maps: Tensor, guide: Tensor, radius: int, epsilon: float, out: Tensor | None = None) -> Tensor:
        out = torch.full_like(maps, torch.nan) if out is None else out
        shape = [ctypes.c_int64(size) for size in maps.shape]
        numbers = [*shape, radius, ctypes.c_float(epsilon)]
        error = self.library.guided_filter(pointer(maps), pointer(guide), pointer(out), *numbers)
        if error:
            raise RuntimeError(error)
        return out


@pytest.fixture(scope="module")
def guided(emulated: ctypes.CDLL) -> Guided:
    return Guided(emulated)


@pytest.fixture
def shared_limit(emulated: ctypes.CDLL):
    """Sets what a block's shared memory may be."""
    yield lambda limit: emulated.set_shared_limit(ctypes.c_int64(limit))
    emulated.set_shared_limit(ctypes.c_int64(SM_90))


def assert_same(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    if got.numel():
        assert (got.double() - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("radius", [1, 3, MAX_RADIUS])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_guided_filter(guided, random, grid, radius):
    maps, guide = torch.rand(2, *grid, generator=random) ** 3, scene(2, *grid)
    for epsilon in (1e-4, 1e-2):
        assert_same(
            guided(maps, guide, radius, epsilon), reference.guided_filter(maps.double(), guide, radius, epsilon)
        )


def test_equal_channels(guided, random):
    maps, guide = torch.rand(2, 9, 13, generator=random), torch.rand(1, 9, 13, generator=random).repeat(3, 1, 1)
    expected = reference.guided_filter(maps.double(), guide, 4, MIN_EPSILON)
    assert (guided(maps, guide, 4, MIN_EPSILON) - expected).abs().max() <= 5e-6


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    T=st.integers(0, 3),
    h=st.integers(1, 22),
    w=st.integers(1, 22),
    radius=st.integers(1, MAX_RADIUS),
    epsilon=st.floats(1e-4, 1),
)
def test_random(guided, seed, T, h, w, radius, epsilon):
    maps, guide = torch.rand(T, h, w, generator=torch.Generator().manual_seed(seed)), scene(seed, h, w)
    assert_same(guided(maps, guide, radius, epsilon), reference.guided_filter(maps.double(), guide, radius, epsilon))


@pytest.mark.parametrize("limit", [SM_90, 1000], ids=["shared", "global"])
def test_batch(guided, random, shared_limit, limit):
    """A map does not depend on the others, nor on whether it is overwritten."""
    shared_limit(limit)
    maps, guide = torch.rand(7, 12, 15, generator=random), scene(5, 12, 15)
    got = guided(maps, guide, 3, 1e-4)
    for one, result in zip(maps, got, strict=True):
        assert torch.equal(guided(one[None].contiguous(), guide, 3, 1e-4)[0], result)
    in_place = maps.clone()
    assert torch.equal(guided(in_place, guide, 3, 1e-4, out=in_place), got)


@pytest.mark.parametrize("limit", [SM_90, 1000], ids=["shared", "global"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_not_finite(guided, random, shared_limit, limit, bad):
    """Values that are not finite stay in their map and are visible there."""
    shared_limit(limit)
    maps, guide = torch.rand(4, 10, 12, generator=random), scene(6, 10, 12)
    unspoiled = guided(maps, guide, 2, 1e-4)
    maps[2, 3, 4] = bad
    got = guided(maps, guide, 2, 1e-4)
    assert not got[2].isfinite().all()
    assert torch.equal(got[[0, 1, 3]], unspoiled[[0, 1, 3]])


@pytest.mark.parametrize("limit", [SM_90, 1000], ids=["shared", "global"])
def test_any_order(emulated, guided, random, shared_limit, limit):
    """Results do not depend on which thread runs first."""
    shared_limit(limit)
    maps, guide = torch.rand(2, 33, 37, generator=random), scene(7, 33, 37)
    results = []
    for order, seed in ((0, 0), (1, 0), (2, 1), (2, 2)):
        emulated.set_order(order, seed)
        results.append(guided(maps, guide, 3, 1e-4))
    emulated.set_order(0, 0)
    assert all(torch.equal(result, results[0]) for result in results)


def test_same_bits_in_either_memory(guided, random, shared_limit):
    """More maps than have their fields in global memory at a time."""
    maps, guide = torch.rand(259, 4, 9, generator=random), scene(8, 4, 9)
    expected = guided(maps, guide, 1, 1e-3)
    shared_limit(1000)
    assert torch.equal(guided(maps, guide, 1, 1e-3), expected)


@pytest.mark.parametrize("grid", [(64, 64), (128, 128)], ids=str)
def test_large(guided, random, grid):
    maps, guide = torch.rand(1, *grid, generator=random) ** 3, scene(9, *grid)
    assert_same(guided(maps, guide, 3, 1e-4), reference.guided_filter(maps.double(), guide, 3, 1e-4))


def test_degenerate(guided):
    guide = scene(3, 8, 11)
    for value in (0.0, 0.3, 1.0):
        flat = torch.full((2, 8, 11), value)
        torch.testing.assert_close(guided(flat, guide, 3, 1e-4), flat)


def test_too_large(emulated, guided):
    emulated.set_dry(1)
    with pytest.raises(RuntimeError, match=f"^{INVALID}$"):
        guided(torch.zeros(1).expand(1, 2**14, 2**13 + 1), torch.zeros(1), 3, 1e-4, out=torch.zeros(1))
    emulated.set_dry(0)
