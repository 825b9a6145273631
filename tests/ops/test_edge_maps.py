"""Every op on maps that break kernels (`dcam_fast.benchmarks.edge_maps`), on every backend against the reference."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dcam_fast import ops
from dcam_fast.benchmarks.edge_maps import KINDS, edge_map, edge_maps
from dcam_fast.benchmarks.stability import PARITY, rank_is_sure, tolerance
from dcam_fast.config import PAPER, RELEASED, UNGUIDED, RefineConfig
from dcam_fast.images import grid_boxes
from dcam_fast.ops import reference

GRID = (16, 18)
OPTIONS = {"repetition": 0.07, "image_side": 384.0}
CONFIGS = {
    "released": RELEASED,
    "paper": PAPER,
    "unguided": UNGUIDED,
    "gated": RefineConfig(denoise="none", gating_sigma=0.8),
    "attenuated": RefineConfig(denoise="none", gating=False, debiasing=False),
    "debiased": RefineConfig(denoise="none", gating=False, attenuation=False),
}


def close(got: torch.Tensor, expected: torch.Tensor, allowed: float | torch.Tensor) -> bool:
    return bool(((got.cpu().double() - expected).abs() <= allowed).all())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("kind", KINDS)
def test_refine(backend, kind, config):
    decided = 0
    for seed in range(4):
        map = torch.from_numpy(edge_map(kind, np.random.default_rng(seed), *GRID))
        got = ops.refine(map[None].to(backend.device), config, **OPTIONS, backend=backend.backend)[0]
        allowed = tolerance(map.double(), config, **OPTIONS)
        assert got.isfinite().all()
        assert got.min() >= 0
        assert got.max() <= 1
        assert close(got, reference.refine(map[None].double(), config, **OPTIONS)[0], allowed), seed
        decided += allowed < math.inf
        if backend.backend == "cpu":
            assert np.array_equal(ops.refine_array(map.numpy(), config, **OPTIONS), got.numpy())
    # where roundings decide (subnormal maps, above all), nothing can be compared
    assert decided > 0 or kind not in ("dense", "sparse", "rectangle", "signed zeros", "zeros", "half zeros")


def test_percentiles_of_zeros(backend):
    """The minimum is 0 of either sign, with every share of zeros, below and above each percentile."""
    config = RefineConfig(denoise="none", gating=False, debiasing=False, attenuation_weights=(0.0, 1.0, 0.0, 0.0))
    for zero in (0.0, -0.0):
        for zeros in range(0, 100, 3):
            map = torch.linspace(0.5, 1, 100)
            map[:zeros] = zero
            map = map[torch.randperm(100, generator=torch.Generator().manual_seed(zeros))].reshape(1, 10, 10)
            got = ops.refine(map.to(backend.device), config, backend=backend.backend)
            assert close(got, reference.refine(map.double(), config), PARITY), (zero, zeros)


@pytest.mark.parametrize("k", [3, 5])
def test_rank_filter(backend, k):
    for kind in KINDS:
        maps = torch.from_numpy(edge_map(kind, np.random.default_rng(1), *GRID))[None]
        expected = reference.rank_filter(maps.double(), k)
        got = ops.rank_filter(maps.to(backend.device), k, backend=backend.backend)
        assert got.isfinite().all()
        allowed = torch.where(rank_is_sure(maps[0].double(), k), PARITY * float(maps.abs().max()) + 1e-43, math.inf)
        assert close(got, expected, allowed), kind
        if backend.backend == "cpu":
            assert np.array_equal(ops.rank_filter_array(maps[0].numpy(), k), got[0].numpy())


def test_guided_filter(backend):
    rng = np.random.default_rng(2)
    maps = torch.from_numpy(edge_maps(rng, *GRID))
    for colors in (torch.from_numpy(rng.random((3, *GRID), np.float32)), torch.zeros(3, *GRID)):
        got = ops.guided_filter(maps.to(backend.device), colors.to(backend.device), backend=backend.backend)
        expected = reference.guided_filter(maps.double(), colors, 4, 1e-3)
        assert got.isfinite().all()
        assert got.min() >= 0
        scale = maps.abs().amax((1, 2), keepdim=True).double()
        assert ((got.cpu().double() - expected).abs() <= PARITY * scale).all()


def sparse_blocks(rng: np.random.Generator, T: int, S: int, D: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations and gradients of every kind, one kind a target."""
    kinds = rng.choice(list(KINDS), T + 1)
    scale = [float(np.abs(edge_map(kind, rng, S, D)).max() > 2) for kind in kinds]
    A, *G = (edge_map("sparse signed" if big else kind, rng, S, D) for kind, big in zip(kinds, scale, strict=True))
    return torch.from_numpy(A), torch.from_numpy(np.stack(G))


@pytest.mark.parametrize("aggregation", ops.AGGREGATIONS)
def test_pool(backend, aggregation):
    for seed in range(6):
        A, G = sparse_blocks(np.random.default_rng(seed), 4, 21, 37)
        got = ops.pool(A.to(backend.device), G.to(backend.device), aggregation=aggregation, backend=backend.backend)
        expected = reference.pool(A.double(), G.double(), None, aggregation)
        assert got.min() >= 0
        assert got.max() <= 1
        raw = reference._aggregate(A.double()[None], G.double(), aggregation)
        # the sums' rounding, magnified by normalization
        terms = (A.double().abs()[None] * G.double().abs()).sum(-1).amax(-1) + A.double().abs().sum(-1).amax()
        allowed = 1e-6 + 1e-6 * terms / (raw.amax(-1) - raw.amin(-1) + 1e-8)
        assert ((got.cpu().double() - expected).abs() <= allowed[:, None]).all(), seed


def test_overlay(backend):
    rng = np.random.default_rng(3)
    maps = torch.from_numpy(edge_maps(rng, 5, 6))
    boxes = grid_boxes((5, 6), (20, 24))
    image = torch.from_numpy(rng.integers(0, 256, (20, 24, 3), np.uint8))
    table = torch.arange(256, dtype=torch.uint8)[:, None].repeat(1, 3)
    here = [tensor.to(backend.device) for tensor in (maps, image, boxes, table)]
    values = ops.upsample(here[0], here[2], (20, 24), backend=backend.backend)
    expected = reference.upsample(maps.double(), boxes, (20, 24))
    scale = maps.abs().amax((1, 2), keepdim=True).double()
    assert ((values.cpu().double() - expected).abs() <= 5e-7 * scale + 1e-43).all()  # a step of subnormals
    got = ops.overlay(*here, backend=backend.backend)
    blended = reference.overlay(maps.double(), image, boxes, table)
    # a value at the edge of a level may round to the next one
    assert (got.cpu().int() - blended.int()).abs().max() <= 1


@pytest.mark.parametrize("config", [RELEASED, replace(UNGUIDED, denoise="none")], ids=["released", "bare"])
def test_diffusion_cam(backend, config):
    for seed in range(4):
        A, G = (t.to(backend.device) for t in sparse_blocks(np.random.default_rng(seed), 3, 48, 20))
        for aggregation in ("pooled", "elementwise", "layer_cam"):
            got = ops.diffusion_cam(A, G, (6, 8), None, aggregation, config, backend=backend.backend)
            maps = ops.pool(A, G, None, aggregation, backend=backend.backend).reshape(3, 6, 8)
            assert torch.equal(got, ops.refine(maps, config, backend=backend.backend))
