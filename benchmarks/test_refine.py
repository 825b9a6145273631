"""Post-processing of one map and of a batch: ours beside the released algorithm, written three ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from baselines import array_filter, loop_filter, numba_filter, refine_released

from dcam_fast import ops, reference
from dcam_fast.config import RELEASED

REPETITION = 0.2
SIZES = (27, 48)
LABELS = {"loop": "released algorithm, Python loop", "array": "the same, vectorised NumPy", "numba": "the same, numba"}


def make_map(size: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A map like a real one: two blobs over noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    blobs = np.exp(-((x - 0.3) ** 2 + (y - 0.6) ** 2) / 0.01) + 0.6 * np.exp(-((x - 0.7) ** 2 + (y - 0.2) ** 2) / 0.02)
    values = blobs + 0.1 * rng.random((size, size))
    return ((values - values.min()) / np.ptp(values)).astype(np.float32)


def check(result: Any, size: int) -> None:
    """No figure for a wrong result: within float32 rounding of the float64 reference."""
    exact = reference.refine(torch.from_numpy(make_map(size)).double()[None], RELEASED, repetition=REPETITION)[0]
    np.testing.assert_allclose(np.asarray(result).reshape(size, size), exact, rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["loop", "array", "numba"])
def test_baseline(benchmark: Any, name: str, size: int) -> None:
    if name == "numba":
        pytest.importorskip("numba", reason="numba is not installed (pip install numba)")
    chosen = {"loop": lambda: loop_filter, "array": lambda: array_filter, "numba": numba_filter}[name]()
    values = make_map(size).astype(np.float64)
    check(refine_released(values, REPETITION, chosen), size)  # and numba has compiled
    benchmark.group = f"refine {size}x{size}"
    benchmark.extra_info["label"] = LABELS[name]
    benchmark(refine_released, values, REPETITION, chosen)


@pytest.mark.parametrize("size", SIZES)
def test_array_entry(benchmark: Any, size: int) -> None:
    values = make_map(size)
    benchmark.group = f"refine {size}x{size}"
    benchmark.extra_info["label"] = "dcam_fast, NumPy entry"
    check(benchmark(ops.refine_array, values, RELEASED, repetition=REPETITION), size)


@pytest.mark.parametrize("size", SIZES)
def test_torch_op(benchmark: Any, one_thread: None, size: int) -> None:
    values = torch.from_numpy(make_map(size))[None]
    benchmark.group = f"refine {size}x{size}"
    benchmark.extra_info["label"] = "dcam_fast, torch op"
    check(benchmark(ops.refine, values, RELEASED, repetition=REPETITION), size)


def test_batch(benchmark: Any) -> None:
    values = torch.from_numpy(np.stack([make_map(27, seed) for seed in range(64)]))
    benchmark.group = "refine 64 maps of 27x27, all cores"
    benchmark.extra_info["label"] = "dcam_fast, torch op"
    check(benchmark(ops.refine, values, RELEASED, repetition=REPETITION)[0], 27)
