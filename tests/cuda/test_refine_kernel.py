"""The CUDA kernels of refine and rank_filter against the reference, on the host emulator."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dcam_fast import ops
from dcam_fast.benchmarks.edge_maps import KINDS, edge_map
from dcam_fast.benchmarks.stability import tolerance
from dcam_fast.config import KERNEL_SIZES, MODES, PAPER, RELEASED, UNGUIDED, RefineConfig
from dcam_fast.ops import reference

# As in tests/ops: float32 against float64, and the floor set for parity.
TOLERANCE = 2e-5
GRIDS = [(1, 1), (1, 6), (7, 1), (2, 2), (3, 5), (9, 13), (14, 21), (17, 33), (27, 27), (61, 55)]
CONFIGS = {
    "released": RELEASED,
    "paper": PAPER,
    "unguided": UNGUIDED,
    "adaptive": RefineConfig(step_ratio=0.02, size="image"),
    "gated": RefineConfig(denoise="none", gating_sigma=0.8),
    "wide": RefineConfig(denoise="gaussian", smoothing_sigma=3.3, gating_sigma=1.3),
    "bare": RELEASED.ablation("baseline"),
    **{mode: PAPER.ablation(mode) for mode in ("background_only", "debiasing_only")},
}
OPTIONS = {"repetition": 0.07, "image_side": 1024.0}
INVALID = 1  # cudaErrorInvalidValue


def peaked(random: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=random) ** 3


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr() if tensor is not None else None)


class Refine:
    """The launcher, with its buffers poisoned first."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library

    def __call__(
        self,
        maps: Tensor,
        config: RefineConfig,
        *,
        grids: list[tuple[int, int]] | None = None,
        repetition: float | Tensor = 0.0,
        image_side: float = 0.0,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        count = len(maps) if grids is None else len(grids)
        out = torch.full_like(maps, torch.nan) if out is None else out
        flags = torch.full((count,), 7, dtype=torch.int32)
        shapes = None if grids is None else torch.tensor(grids, dtype=torch.int64).reshape(-1, 2)
        offsets = None if shapes is None else shapes.prod(1).cumsum(0) - shapes.prod(1)
        ratios = repetition.float() if isinstance(repetition, Tensor) else None
        packed = torch.tensor(config.packed, dtype=torch.float64)
        height, width = maps.shape[1:] if grids is None else (0, 0)
        error = self.library.refine(
            pointer(maps),
            pointer(out),
            pointer(flags),
            pointer(shapes),
            pointer(offsets),
            pointer(ratios),
            ctypes.c_int64(count),
            ctypes.c_int64(height),
            ctypes.c_int64(width),
            ctypes.c_float(0 if ratios is not None else float(repetition)),
            ctypes.c_float(image_side),
            pointer(packed),
        )
        if error:
            raise RuntimeError(error)
        return out, flags


@pytest.fixture(scope="module")
def refine(emulated: ctypes.CDLL) -> Refine:
    return Refine(emulated)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parents[1] / "data/golden_public.npz") as data:
        return dict(data)


def rank_filter(library: ctypes.CDLL, maps: Tensor, side: int) -> Tensor:
    out = torch.full_like(maps, torch.nan)
    shape = [ctypes.c_int64(size) for size in maps.shape]
    assert library.rank_filter(pointer(maps), pointer(out), *shape, side) == 0
    return out


def assert_same(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    if got.numel():
        assert (got.double() - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("k", KERNEL_SIZES)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_rank_filter(emulated, random, grid, k):
    maps = peaked(random, 2, *grid)
    maps[1] *= torch.rand(grid, generator=random) > 0.7
    assert_same(rank_filter(emulated, maps, k), reference.rank_filter(maps.double(), k))


@pytest.mark.parametrize("k", KERNEL_SIZES)
def test_rank_filter_limits(emulated, k):
    for value in (1.0, 1e-6, 1e-30, 0.0, -1.0):
        maps = torch.full((1, 12, 14), value)
        torch.testing.assert_close(rank_filter(emulated, maps, k), maps.clamp(min=0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_refine(refine, random, grid, config):
    maps = peaked(random, 2, *grid)
    if min(grid) < 8:
        # flat but for roundings, or ties by reflection: as in tests/ops/test_refine.py
        config = replace(config, gating=False, kernel_size=3, smoothing_sigma=0.6)
    got, flags = refine(maps, config, **OPTIONS)
    assert flags.tolist() == [0, 0]
    assert_same(got, reference.refine(maps.double(), config, **OPTIONS))


@pytest.mark.parametrize("k", KERNEL_SIZES)
def test_sides(refine, random, k):
    """Every side, given and chosen from the map's own statistics."""
    given = replace(RELEASED, kernel_size=k)
    maps = peaked(random, 1, 12, 19)
    got, _ = refine(maps, given)
    assert_same(got, reference.refine(maps.double(), given))
    # steps of the side: 3 * 2 * min(5 std, 2) * 1 for a side of 512
    std = maps.double().std(correction=0).item()
    chosen = maps * (k + 0.2) / 30 / std
    assert reference.kernel_size(1 / 32, chosen.double().std(correction=0).item(), 512) == k
    adaptive = RefineConfig(step_ratio=1 / 32, size="image", attenuation=False, debiasing=False)
    got, _ = refine(chosen, adaptive, image_side=512)
    assert_same(got, reference.refine(chosen.double(), replace(adaptive, kernel_size=k)))


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**31),
    h=st.integers(8, 22),
    w=st.integers(8, 22),
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
def test_random(refine, seed, h, w, config, repetition):
    maps = peaked(torch.Generator().manual_seed(seed), 1, h, w)
    options = {"repetition": repetition, "image_side": 700.0}
    assert_same(refine(maps, config, **options)[0], reference.refine(maps.double(), config, **options))


@pytest.mark.parametrize("kind", ["zeros", "negatives", "levels", "outlier", "huge", "tiny"])
def test_order_statistics(refine, random, kind):
    """Percentiles among ties, on both sides of zero, and where one value stretches the range."""
    noise = torch.rand(1, 23, 31, generator=random)
    maps = {
        "zeros": noise * (noise > 0.8),
        "negatives": noise - 0.7,
        "levels": (noise * 4).floor() / 4,
        "outlier": torch.where(noise == noise.max(), 1e6, noise),
        "huge": noise * 1e30,
        "tiny": noise * 1e-30,
    }[kind]
    config = RefineConfig(denoise="none", gating_sigma=0.5, debiasing=False)
    got, _ = refine(maps, config)
    assert_same(got, reference.refine(maps.double(), config))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("kind", KINDS)
def test_edge_maps(refine, kind, config):
    for seed in range(2):
        map = torch.from_numpy(edge_map(kind, np.random.default_rng(seed), 16, 18))
        got, flags = refine(map[None].contiguous(), config, **OPTIONS)
        assert flags.tolist() == [0]
        assert got.min() >= 0
        assert got.max() <= 1 + 1e-6
        off = (got.double() - reference.refine(map[None].double(), config, **OPTIONS)).abs().max()
        assert off <= tolerance(map.double(), config, **OPTIONS)


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_percentiles_of_zeros(refine, zero):
    config = RefineConfig(denoise="none", gating=False, debiasing=False, attenuation_weights=(0.0, 1.0, 0.0, 0.0))
    for zeros in range(0, 100, 7):
        map = torch.linspace(0.5, 1, 100)
        map[:zeros] = zero
        map[: zeros // 2] = 0.0
        map = map.reshape(1, 10, 10)
        assert_same(refine(map, config)[0], reference.refine(map.double(), config))


@pytest.mark.parametrize("spread", ["spread", "bright", "dim", "else"])
def test_gating_percentiles(refine, random, spread):
    noise = torch.rand(1, 16, 18, generator=random)
    maps = {
        "spread": noise.round(),
        "bright": 0.6 + 0.1 * noise,
        "dim": 0.2 * noise,
        "else": 0.25 + 0.1 * noise,
    }[spread]
    config = RefineConfig(denoise="none", gating_sigma=0.8, gating_percentiles=(95.0, 70.0, 50.0, 20.0))
    assert_same(refine(maps, config)[0], reference.refine(maps.double(), config))


@pytest.mark.parametrize("index", range(12))
def test_golden(refine, golden, index):
    maps = torch.from_numpy(golden[f"post{index}_in"]).float()[None]
    rho = ops.repetition_ratio(golden[f"post{index}_tokens"])
    modes = [mode for mode in MODES if f"post{index}_{mode}" in golden]
    assert len(modes) == 4
    for mode in modes:
        got, _ = refine(maps.contiguous(), RELEASED.ablation(mode), repetition=rho)
        assert np.abs(got[0].numpy() - golden[f"post{index}_{mode}"]).max() <= TOLERANCE, mode


@pytest.mark.parametrize("index", range(20))
def test_golden_rank(emulated, golden, index):
    array, k, expected = (golden[f"rank{index}_{part}"] for part in ("in", "k", "out"))
    got = rank_filter(emulated, torch.from_numpy(array).float()[None].contiguous(), int(k))
    assert np.abs(got[0].numpy() - expected).max() <= TOLERANCE


@pytest.mark.parametrize("T", [0, 1, 7])
@pytest.mark.parametrize("config", [RELEASED, PAPER, UNGUIDED], ids=["released", "paper", "unguided"])
def test_batch(refine, random, T, config):
    maps = peaked(random, T, 12, 15)
    ratios = torch.rand(T, generator=random)
    got, _ = refine(maps, config, repetition=ratios, image_side=384)
    for one, ratio, result in zip(maps, ratios.tolist(), got, strict=True):
        alone, _ = refine(one[None].contiguous(), config, repetition=ratio, image_side=384)
        assert torch.equal(alone[0], result)
    in_place = maps.clone()
    refine(in_place, config, repetition=ratios, image_side=384, out=in_place)
    assert torch.equal(in_place, got)


@pytest.mark.parametrize("config", [RELEASED, PAPER, UNGUIDED], ids=["released", "paper", "unguided"])
def test_ragged(refine, random, config):
    """Other maps of the batch change no bit, whatever their sizes."""
    grids = [(9, 13), (1, 1), (29, 27), (8, 8), (57, 54)]
    maps = [peaked(random, 1, *grid) for grid in grids]
    ratios = torch.linspace(0, 0.5, len(grids))
    got, flags = refine(torch.cat([m.flatten() for m in maps]), config, grids=grids, repetition=ratios, image_side=384)
    assert flags.count_nonzero() == 0
    parts = got.split([h * w for h, w in grids])
    for one, ratio, part in zip(maps, ratios.tolist(), parts, strict=True):
        alone, _ = refine(one, config, repetition=ratio, image_side=384)
        assert torch.equal(part, alone.flatten())
    assert refine(torch.empty(0), config, grids=[], image_side=384)[0].shape == (0,)


def test_many_ragged(refine, random):
    """More maps than one launch describes."""
    grids = [(3, 4 + i % 3) for i in range(131)]
    maps = [peaked(random, 1, *grid) for grid in grids]
    maps[129][0, 1, 1] = torch.nan
    ratios = torch.linspace(0, 0.5, len(grids))
    config = replace(UNGUIDED, denoise="none")
    got, flags = refine(torch.cat([m.flatten() for m in maps]), config, grids=grids, repetition=ratios)
    assert flags.nonzero().tolist() == [[129]]
    parts = got.split([h * w for h, w in grids])
    for i in (0, 127, 128, 130):
        assert torch.equal(parts[i], refine(maps[i], config, repetition=ratios[i].item())[0].flatten())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_degenerate(refine, config):
    """All-zero and constant maps give zeros, whatever runs."""
    for grid in ((1, 1), (1, 5), (12, 9)):
        for value in (0.0, 1.0, 0.25, -1.0, 1e-30):
            got, flags = refine(torch.full((2, *grid), value), config, repetition=0.2, image_side=512)
            assert flags.tolist() == [0, 0]
            assert got.isfinite().all()
            if config.denoise != "gaussian":
                assert got.count_nonzero() == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", [(0, 0), (9, 11)])
def test_not_finite(refine, random, bad, at):
    maps = peaked(random, 5, 10, 12)
    unspoiled, _ = refine(maps, PAPER, image_side=384)
    maps[3, at[0], at[1]] = bad
    got, flags = refine(maps, PAPER, image_side=384)
    assert flags.tolist() == [0, 0, 0, 1, 0]
    assert got[3].count_nonzero() == 0
    assert torch.equal(got[[0, 1, 2, 4]], unspoiled[[0, 1, 2, 4]])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_any_order(emulated, refine, random, config):
    """Results do not depend on which thread runs first."""
    maps = peaked(random, 1, 33, 29)
    maps[0, :9] = 0
    results = []
    for order, seed in ((0, 0), (1, 0), (2, 1), (2, 2)):
        emulated.set_order(order, seed)
        results.append(refine(maps, config, **OPTIONS)[0])
    emulated.set_order(0, 0)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("grid", [(48, 48), (64, 64), (128, 128), (1, 16384)], ids=str)
@pytest.mark.parametrize("config", [RELEASED, PAPER], ids=["released", "paper"])
def test_large(refine, random, grid, config):
    maps = peaked(random, 1, *grid)
    got, _ = refine(maps, config, **OPTIONS)
    assert_same(got, reference.refine(maps.double(), config, **OPTIONS))


def test_too_large(refine):
    with pytest.raises(RuntimeError, match=f"^{INVALID}$"):
        refine(torch.zeros(1, 128, 129), UNGUIDED)
    with pytest.raises(RuntimeError, match=f"^{INVALID}$"):
        refine(torch.zeros(128 * 129 + 1), UNGUIDED, grids=[(1, 1), (128, 129)])
