"""Measures the candidates for every class of tuning.json and writes the fastest of each.

`python -m dcam_fast.kernels.tune` needs an idle GPU and some minutes. Every candidate is checked against the reference
before it is timed.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
import triton
from rich.console import Console
from torch import Tensor

from dcam_fast import ops
from dcam_fast.config import RELEASED, UNGUIDED
from dcam_fast.images import grid_boxes
from dcam_fast.ops import _backends

from .tuning import TABLE, launch, table

Launch = dict[str, int]

_WARPS: Final = {"num_warps": (4, 8), "num_stages": (1, 2)}
CANDIDATES: Final[dict[str, dict[str, tuple[int, ...]]]] = {
    "pool_weights": {"BLOCK_N": (16, 32, 64), "BLOCK_D": (32, 64, 128), "SPLIT": (1, 2, 4, 8), **_WARPS},
    "pool_rows": {"BLOCK_N": (1, 2, 4, 8, 16), "BLOCK_D": (128, 256, 512, 1024), **_WARPS},
    "pool_weighted_rows": {"BLOCK_N": (2, 4, 8, 16), "BLOCK_D": (128, 256, 512), **_WARPS},
    "pool_product": {"BLOCK_T": (16, 32, 64), "BLOCK_N": (16, 32), "BLOCK_D": (32, 64), **_WARPS},
    "pool_normalize": {"BLOCK": (512, 1024, 2048, 4096), "num_warps": (4, 8), "num_stages": (1,)},
    "refine": {"CHUNK": (256, 512, 1024), "num_warps": (4, 8, 16), "num_stages": (1,)},
    "rank_filter": {"CHUNK": (64, 128, 256), "num_warps": (2, 4), "num_stages": (1,)},
    "guided_filter": {"BLOCK": (32, 64, 128, 256), "num_warps": (1, 2, 4), "num_stages": (1,)},
    "overlay_axes": {"BLOCK": (64, 128, 256), "CHUNK": (16, 32, 64), "num_warps": (2, 4), "num_stages": (1,)},
    "overlay_pixels": {"BLOCK": (256, 512, 1024), "num_warps": (2, 4, 8), "num_stages": (1,)},
}
# Sizes to measure where a class has no bound.
_OPEN: Final = {"targets": 64, "channels": 4096, "cells": 4096}


def _candidates(kernel: str) -> Iterator[Launch]:
    if kernel == "pool_product":
        yield {}
    for values in itertools.product(*CANDIDATES[kernel].values()):
        yield dict(zip(CANDIDATES[kernel], values, strict=True))


def _call(kernel: str, shape: dict[str, int], device: str) -> Callable[[str], list[Tensor]]:
    """The op calls that a class of a kernel is measured by, given a backend."""
    random = torch.Generator(device).manual_seed(1)

    def values(*size: int) -> Tensor:
        return torch.randn(size, generator=random, device=device)

    if kernel.startswith("pool"):
        rows = kernel in ("pool_rows", "pool_normalize")
        T = {"pool_rows": 4, "pool_weighted_rows": 1, "pool_normalize": 16}.get(kernel, shape["targets"])
        N, D = (shape["cells"], 64) if kernel == "pool_normalize" else (2304, shape["channels"])
        A, G = values(N, D).bfloat16(), values(T, N, D).bfloat16()
        return lambda backend: [ops.pool(A, G, None, "elementwise" if rows else "pooled", check=False, backend=backend)]
    side = math.isqrt(shape["cells"])
    maps = values(16, side, side).abs()
    if kernel == "refine":
        return lambda backend: [
            ops.refine(maps, config, repetition=0.1, check=False, backend=backend) for config in (UNGUIDED, RELEASED)
        ]
    if kernel == "rank_filter":
        return lambda backend: [ops.rank_filter(maps, k, backend=backend) for k in (3, 5)]
    if kernel == "guided_filter":
        guide = torch.rand((3, side, side), generator=random, device=device)
        return lambda backend: [ops.guided_filter(maps, guide, backend=backend)]
    image = torch.randint(0, 256, (768, 1024, 3), generator=random, device=device, dtype=torch.uint8)
    boxes = grid_boxes((side, side), (768, 1024)).to(device)
    return lambda backend: [ops.overlay(maps, image, boxes, backend=backend)]


def _agree(got: list[Tensor], expected: list[Tensor]) -> bool:
    # overlay: a value at the edge of a level may round to the next one
    return all(
        bool(((a.float() - b.float()).abs() <= (8 if a.dtype is torch.uint8 else 1e-4)).all())
        for a, b in zip(got, expected, strict=True)
    )


def _tune(kernel: str, entry: dict[str, Any], device: str, console: Console) -> None:
    """Stores the fastest correct candidate in `entry`."""
    call = _call(kernel, _OPEN | entry["up_to"], device)
    expected = call("reference")
    measured: list[tuple[float, Launch]] = []
    for candidate in _candidates(kernel):
        entry["launch"] = candidate
        launch.cache_clear()
        try:
            correct = _agree(call("triton"), expected)
        except triton.runtime.errors.OutOfResources:
            continue
        if correct:
            milliseconds = triton.testing.do_bench(lambda: call("triton"), return_mode="median")
            measured.append((milliseconds, candidate))
        else:
            console.print(f"{kernel} {entry['up_to']}: wrong results with {candidate}", style="red")
    if not measured:
        sys.exit(f"tune: {kernel} must have a correct candidate, got none for {entry['up_to']}")
    best, entry["launch"] = min(measured, key=lambda pair: pair[0])
    launch.cache_clear()
    console.print(f"{kernel} {entry['up_to']}: {best * 1000:.1f} us with {entry['launch']}")


def main() -> None:
    """Measures everything and rewrites tuning.json."""
    reason = _backends.BACKENDS["triton"].unavailable_reason()
    device = next((name for name in ("cuda", "xpu") if torch.get_device_module(name).is_available()), None)
    if reason is not None or device is None:
        sys.exit(f"tune: needs a GPU that Triton serves, but none is available ({reason or 'torch finds no GPU'})")
    console = Console()
    for kernel, entries in table()["kernels"].items():
        for entry in entries:
            _tune(kernel, entry, device, console)
    name = torch.get_device_module(device).get_device_name()
    table()["measured_on"] = f"{name}, torch {torch.__version__}, triton {triton.__version__}"
    table()["note"] = "Written by `python -m dcam_fast.kernels.tune`."
    TABLE.write_text(json.dumps(table(), indent=2) + "\n")
    console.print(f"written: {TABLE}")


if __name__ == "__main__":
    main()
