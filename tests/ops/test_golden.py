"""Parity with the released code: 1e-6 in float64, 2e-5 in float32, kernel sizes exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dcam_fast import ops
from dcam_fast.config import MODES, RELEASED
from dcam_fast.ops import _backends, reference

POSTS, RANKS, RAWS = range(12), range(20), range(3)


def test_counts(golden):
    assert (len(POSTS), len(RANKS), len(RAWS)) == tuple(int(golden[n]) for n in ("n_post", "n_rank", "n_raw"))


def _modes(golden, index):
    modes = [mode for mode in MODES if f"post{index}_{mode}" in golden]
    assert len(modes) == 4
    return [(mode, golden[f"post{index}_{mode}"]) for mode in modes]


@pytest.mark.parametrize("index", POSTS)
def test_refine_reference(golden, index):
    maps = torch.from_numpy(golden[f"post{index}_in"]).double()[None]
    rho = ops.repetition_ratio(golden[f"post{index}_tokens"])
    for mode, expected in _modes(golden, index):
        got = reference.refine(maps, RELEASED.ablation(mode), repetition=rho)[0].numpy()
        assert np.abs(got - expected).max() <= 1e-6, mode


@pytest.mark.parametrize("index", POSTS)
def test_refine(golden, backend, index):
    array = golden[f"post{index}_in"]
    maps = torch.from_numpy(array).to(backend.device)[None]
    rho = ops.repetition_ratio(golden[f"post{index}_tokens"])
    for mode, expected in _modes(golden, index):
        got = ops.refine(maps, RELEASED.ablation(mode), repetition=rho, backend=backend.backend)
        assert got.dtype == torch.float32
        assert np.abs(got[0].cpu().numpy() - expected).max() <= 2e-5, mode
        if backend.backend == "cpu":
            got = ops.refine_array(array, RELEASED.ablation(mode), repetition=rho)
            assert np.abs(got - expected).max() <= 2e-5, mode


@pytest.mark.parametrize("index", RANKS)
def test_rank_filter(golden, backend, index):
    array, k, expected = (golden[f"rank{index}_{part}"] for part in ("in", "k", "out"))
    maps = torch.from_numpy(array)[None]
    assert np.abs(reference.rank_filter(maps.double(), int(k))[0].numpy() - expected).max() <= 1e-6
    with backend.rank_kernel(int(k)):
        got = ops.rank_filter(maps.to(backend.device), int(k), backend=backend.backend)[0].cpu().numpy()
        assert np.abs(got - expected).max() <= 2e-5
    if backend.backend == "cpu":
        assert np.abs(ops.rank_filter_array(array, int(k)) - expected).max() <= 2e-5


@pytest.mark.parametrize("index", RAWS)
def test_pooled(golden, backend, index):
    A, G, expected = (torch.from_numpy(golden[f"raw{index}_{part}"]) for part in ("A", "G", "out"))
    A, G = A.flatten(0, 1), G.flatten(0, 1)[None]
    exact = reference.pool(A.double(), G.double(), aggregation="pooled").reshape(expected.shape)
    assert (exact - expected).abs().max() <= 1e-6
    got = ops.pool(A.to(backend.device), G.to(backend.device), aggregation="pooled", backend=backend.backend)
    assert (got.cpu().reshape(expected.shape) - expected).abs().max() <= 2e-5


def test_kernel_size(golden):
    for step_ratio, std, size, k in golden["kernel_size"]:
        assert reference.kernel_size(step_ratio, std, size) == k
        if _backends.native is not None:
            assert _backends.native.kernel_side(step_ratio, std, size) == k
