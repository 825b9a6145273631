"""Where the folders that are parts of the package lie, and what all tests share."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import dcam_fast
from dcam_fast import Explainer
from dcam_fast.models.adapter import Adapter

if importlib.util.find_spec("dcam_fast.benchmarks") is None:
    # a checkout that is on the path and not installed: they lie beside the package
    dcam_fast.__path__.append(str(Path(__file__).parents[1]))


@contextlib.contextmanager
def _cruel_modes() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture
def check_modes() -> Callable[[Callable[[], Adapter], str], None]:
    """Checks that a family loads, explains and streams under any torch modes of the caller as it does without."""

    def check(load: Callable[[], Adapter], prompt: str) -> None:
        image = np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8)
        plain = Explainer(load()).explain(image, prompt, [0], method="published")
        with _cruel_modes():
            inside = Explainer(load())
            maps = inside.explain(image, prompt, [0], method="published").raw_maps
            stream = inside.stream(image, prompt)
            step = next(stream)
        following = next(stream)
        stream.close()
        outside = inside.explain(image, prompt, [0], method="published").raw_maps
        for got in (maps, outside):
            assert torch.equal(got, plain.raw_maps)
        for tensor in (maps, outside, step.maps, following.maps):
            assert tensor.dtype is torch.float32
            assert not tensor.is_inference()
            assert bool(tensor.isfinite().all())

    return check
