"""refine and rank_filter on every backend against the reference in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcam_fast import ops
from dcam_fast.config import KERNEL_SIZES, PAPER, RELEASED, UNGUIDED, RefineConfig
from dcam_fast.ops import reference

# float32 against float64. The rank weights exp(-d^2 / 2 sigma^2) multiply the relative error of sigma^2 (window sums of
# up to 121 terms: 1e-6) by an exponent of at most 20, for ranks that weigh less the larger it is; the rest is a handful
# of roundings. Measured: 4e-7 for the filter, 2e-6 for everything. The floor set for parity is 2e-5.
TOLERANCE = 2e-5
GRIDS = [(1, 1), (1, 6), (7, 1), (2, 2), (3, 5), (9, 13), (16, 16), (14, 21), (17, 33), (27, 27)]
CONFIGS = {
    "released": RELEASED,
    "paper": PAPER,
    "unguided": UNGUIDED,
    "adaptive": RefineConfig(step_ratio=0.02, size="image"),
    "adaptive to 5": RefineConfig(step_ratio=0.1, size="image"),
    "wide": RefineConfig(denoise="gaussian", smoothing_sigma=3.3),
    "bare": RELEASED.ablation("baseline"),
    **{mode: PAPER.ablation(mode) for mode in ("gaussian_only", "background_only", "debiasing_only")},
}


def peaked(random, *shape):
    """Maps like those of attribution: mostly low, a few peaks, minimum 0 and maximum 1."""
    return torch.rand(shape, generator=random) ** 3


def widest_kernel(config, rows, image_side):
    """The widest kernel that any map could make a config ask for."""
    size = rows if config.size == "grid" else image_side
    widest = config.kernel_size or reference.kernel_size(config.step_ratio, math.inf, size)
    return widest if config.denoise == "rank" else 3


def assert_same(got, expected):
    assert got.dtype == torch.float32
    assert got.shape == expected.shape
    if got.numel():
        assert (got.cpu().double() - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("k", KERNEL_SIZES)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_rank_filter(backend, random, grid, k):
    maps = peaked(random, 2, *grid)
    maps[1] *= torch.rand(grid, generator=random) > 0.7  # windows of many zeros, of sigma over 1, and of nothing else
    with backend.rank_kernel(k):
        got = ops.rank_filter(maps.to(backend.device), k, backend=backend.backend)
        assert_same(got, reference.rank_filter(maps.double(), k))


@pytest.mark.parametrize("k", KERNEL_SIZES)
def test_rank_filter_limits(backend, k):
    """A flat window keeps its value, and one whose mean is not positive gives 0."""
    for value in (1.0, 1e-6, 1e-30, 0.0, -1.0):
        maps = torch.full((1, 12, 14), value, device=backend.device)
        with backend.rank_kernel(k):
            got = ops.rank_filter(maps, k, backend=backend.backend)
            torch.testing.assert_close(got, maps.clamp(min=0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_refine(backend, random, grid, config):
    maps = peaked(random, 3, *grid)
    if min(grid) < 8:
        # A kernel wider than the grid leaves a map that is flat but for roundings, which min-max then magnifies; and
        # where reflection makes values equal, a rounding decides which of them passes a threshold among them.
        config = replace(config, gating=False, kernel_size=3, smoothing_sigma=0.6)
    options = {"repetition": 0.07, "image_side": 1024.0}
    with backend.rank_kernel(widest_kernel(config, grid[0], 1024)):
        got = ops.refine(maps.to(backend.device), config, **options, backend=backend.backend)
        assert_same(got, reference.refine(maps.double(), config, **options))
    if backend.backend == "cpu":
        assert np.array_equal(ops.refine_array(maps[1].numpy(), config, **options), got[1].numpy())


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    T=st.integers(0, 4),
    h=st.integers(8, 26),
    w=st.integers(8, 26),
    config=st.builds(
        RefineConfig,
        denoise=st.sampled_from(("none", "rank", "gaussian")),
        kernel_size=st.sampled_from((None, *KERNEL_SIZES)),
        step_ratio=st.floats(0.01, 2),
        size=st.sampled_from(("grid", "image")),
        smoothing_sigma=st.floats(0.3, 5),
        gating=st.booleans(),
        gating_sigma=st.sampled_from((0.0, 0.3, 1.0)),
        attenuation=st.booleans(),
        debiasing=st.booleans(),
        c_rep=st.floats(0, 0.3),
        c_high=st.floats(0, 0.3),
    ),
    repetition=st.floats(0, 0.5),
)
def test_random(seed, T, h, w, config, repetition):
    maps = peaked(torch.Generator().manual_seed(seed), T, h, w)
    options = {"repetition": repetition, "image_side": 700.0}
    assert_same(ops.refine(maps, config, **options), reference.refine(maps.double(), config, **options))


@pytest.mark.parametrize("spread", ["spread", "bright", "dim", "else"])
def test_gating_percentiles(backend, random, spread):
    """Each of the four statistics of DACG is reached."""
    noise = torch.rand(1, 16, 18, generator=random)
    maps = {
        "spread": noise.round(),
        "bright": 0.6 + 0.1 * noise,
        "dim": 0.2 * noise,
        "else": 0.25 + 0.1 * noise,
    }[spread] * 1.0
    config = RefineConfig(denoise="none", gating_sigma=0.8, gating_percentiles=(95.0, 70.0, 50.0, 20.0))
    got = ops.refine(maps.to(backend.device), config, backend=backend.backend)
    assert_same(got, reference.refine(maps.double(), config))


@pytest.mark.parametrize("T", [0, 1, 64])
def test_batch(backend, random, T):
    maps = peaked(random, T, 12, 15).to(backend.device)
    got = ops.refine(maps, RELEASED, repetition=0.1, backend=backend.backend)
    assert got.shape == maps.shape
    for one, result in zip(maps, got, strict=True):
        assert torch.equal(ops.refine(one[None], RELEASED, repetition=0.1, backend=backend.backend)[0], result)


@pytest.mark.parametrize("config", [RELEASED, PAPER, UNGUIDED], ids=["released", "paper", "unguided"])
def test_ragged(backend, random, config):
    grids = [(9, 13), (1, 1), (27, 20), (8, 8)]
    maps = [peaked(random, 1, *grid).to(backend.device) for grid in grids]
    ratios = torch.tensor([0.0, 0.3, 0.1, 0.2], device=backend.device)
    flat = torch.cat([m.flatten() for m in maps])
    for given_grids in (grids, torch.tensor(grids)):
        got = ops.refine(flat, config, grids=given_grids, repetition=ratios, image_side=384, backend=backend.backend)
        parts = got.split([h * w for h, w in grids])
        for one, ratio, part in zip(maps, ratios.tolist(), parts, strict=True):
            alone = ops.refine(one, config, repetition=ratio, image_side=384, backend=backend.backend)
            torch.testing.assert_close(part, alone.flatten(), rtol=0, atol=1e-7)  # a ratio rounded to float32
    none = ops.refine(flat[:0], config, grids=[], image_side=384, backend=backend.backend)
    assert none.shape == (0,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(backend, random, dtype):
    maps = peaked(random, 3, 14, 11).to(backend.device, dtype)
    got = ops.refine(maps, RELEASED, backend=backend.backend)
    assert torch.equal(got, ops.refine(maps.float(), RELEASED, backend=backend.backend))
    assert torch.equal(
        ops.rank_filter(maps, 5, backend=backend.backend), ops.rank_filter(maps.float(), 5, backend=backend.backend)
    )


def test_strided(backend, random):
    maps = peaked(random, 8, 30, 40).to(backend.device)
    for view in (maps[::2], maps[:, 3:20, 5:33], maps.mT, maps[:, ::2, ::3], maps[:1].expand(3, 30, 40)):
        got = ops.refine(view, RELEASED, backend=backend.backend)
        assert torch.equal(got, ops.refine(view.contiguous(), RELEASED, backend=backend.backend))
    if backend.backend == "cpu":
        array = maps[0].numpy()
        for view in (array[3:20, 5:33], array.T, array[::2, ::3]):
            assert np.array_equal(ops.refine_array(view), ops.refine_array(np.ascontiguousarray(view)))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_degenerate(backend, config):
    """All-zero and constant maps give zeros, whatever runs."""
    for grid in ((1, 1), (1, 5), (12, 9)):
        for value in (0.0, 1.0, 0.25, -1.0, 1e-30):
            maps = torch.full((2, *grid), value, device=backend.device)
            with backend.rank_kernel(widest_kernel(config, grid[0], 512)):
                got = ops.refine(maps, config, repetition=0.2, image_side=512, backend=backend.backend)
                # a constant that filtering changes by a rounding is normalized against 1e-8, not against that rounding
                expected = reference.refine(maps.cpu().double(), config, repetition=0.2, image_side=512)
                assert expected.abs().max() <= 1e-6
                assert got.isfinite().all()
                if config.denoise != "gaussian":
                    assert got.count_nonzero() == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_not_finite(backend, random, bad):
    maps = peaked(random, 5, 10, 12).to(backend.device)
    unspoiled = ops.refine(maps, PAPER, image_side=384, backend=backend.backend)
    spoiled = maps.clone()
    spoiled[3, 9, 11] = bad
    with pytest.raises(ValueError, match=r"^refine: maps must be finite, got NaN or Inf in map 3$"):
        ops.refine(spoiled, PAPER, image_side=384, backend=backend.backend)
    got = ops.refine(spoiled, PAPER, image_side=384, check=False, backend=backend.backend)
    assert got[3].count_nonzero() == 0
    assert torch.equal(got[[0, 1, 2, 4]], unspoiled[[0, 1, 2, 4]])


def test_out(backend, random):
    """A poisoned buffer is overwritten wholly, and nothing beside it is; the input itself will do."""
    maps = peaked(random, 3, 11, 13).to(backend.device)
    expected = ops.refine(maps, UNGUIDED, backend=backend.backend)
    room = torch.full((5, 11, 13), torch.nan, device=backend.device)
    got = ops.refine(maps, UNGUIDED, out=room[1:4], backend=backend.backend)
    assert got.data_ptr() == room[1:4].data_ptr()
    assert torch.equal(room[1:4], expected)
    assert room[[0, 4]].isnan().all()
    assert torch.equal(ops.refine(maps, UNGUIDED, out=maps, backend=backend.backend), expected)


def test_neighbors_untouched(random):
    """The array entries write their own array only, at every width around the vectors'."""
    for width in range(1, 36):
        map = peaked(random, 1, 5, width)
        expected = reference.refine(map.double(), RELEASED)[0].numpy()
        assert np.abs(ops.refine_array(map[0].numpy(), RELEASED) - expected).max() <= TOLERANCE


def test_repetition_ratio():
    assert ops.repetition_ratio([]) == 0
    assert ops.repetition_ratio([1, 2, 3]) == 0
    assert ops.repetition_ratio([1, 1, 1, 2, 2, 3]) == pytest.approx(2 / 6)
    assert ops.repetition_ratio(torch.tensor([5, 5])) == 0.5
    assert ops.repetition_ratio(np.array([5, 5, 6, 7])) == 0.25


def test_modules_do_something(random):
    """Every switch changes the result of the paper's profile on an ordinary map."""
    map = peaked(random, 1, 20, 20)
    everything = ops.refine(map, PAPER, repetition=0.3, image_side=384)
    for off in ({"denoise": "none"}, {"gating": False}, {"attenuation": False}, {"debiasing": False}):
        assert (ops.refine(map, replace(PAPER, **off), repetition=0.3, image_side=384) - everything).abs().max() > 1e-4
    assert math.isclose(ops.refine(map, PAPER.ablation("baseline")).max().item(), 1, abs_tol=1e-6)
