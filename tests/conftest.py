"""What all tests share: no network, and a check of families under the caller's torch modes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports Hugging Face's packages; tests' own processes have it too

import numpy as np
import pytest
import torch

from dcam_fast import Explainer
from dcam_fast.models.adapter import Adapter

LOCAL = ("", "localhost", "127.0.0.1", "::1", None)


def refuse_network(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: a test that reaches for another machine fails, with or without a network."""
    if event == "socket.connect" and isinstance(address := arguments[1], tuple):
        host = address[0]
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if host not in LOCAL:
        raise RuntimeError(f"tests: no test may use the network, got {event} to {host!r}")


sys.addaudithook(refuse_network)


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
