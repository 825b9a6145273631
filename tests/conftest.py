"""What all tests share: no network, and a check of families under the caller's torch modes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports Hugging Face's packages; tests' own processes have it too

import numpy as np
import pytest
import torch

from dcam_fast import Explainer
from dcam_fast.models.adapter import Adapter
from dcam_fast.models.generation import Generation

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


def state_of(model: torch.nn.Module) -> dict[str, object]:
    """All that a user can see of a model: weights and their flags, modes and hooks."""
    state: dict[str, object] = {}
    for name, module in model.named_modules():
        hooks = {key: tuple(value) for key, value in vars(module).items() if key.endswith("_hooks") and value}
        state[f"module {name}"] = (module.training, hooks, sorted(vars(module)))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        content = tensor.detach().clone().view(-1).view(torch.uint8).numpy().tobytes()
        flags = (tensor.requires_grad, tensor.dtype, tensor.device, tensor.data_ptr(), tensor._version, id(tensor.grad))
        state[f"tensor {name}"] = (content, flags)
    return state


def unusual(model: torch.nn.Module) -> torch.nn.Module:
    """A model in the middle of training, with parts that are frozen, a hook and a gradient."""
    model.train().requires_grad_(True)
    list(model.modules())[-1].eval()
    parameters = list(model.parameters())
    for parameter in parameters[::3]:
        parameter.requires_grad_(False)
    parameters[1].grad = torch.ones_like(parameters[1])
    list(model.modules())[2].register_forward_hook(lambda _module, _args, _output: None)
    return model


@pytest.fixture
def check_left_alone(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Checks that a model in memory has the maps of `plain`, its adapter from a folder, and is left as it was."""

    def check(plain: Adapter[Any], model: torch.nn.Module, processor: Any, prompt: str, **options: Any) -> None:
        image = np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8)
        generation = Generation(steps=2)
        expected = Explainer(plain).explain(image, prompt, [0], generation=generation)
        before = state_of(unusual(model))
        explainer = Explainer.from_model(model, processor, **options)
        assert state_of(model) == before
        modes = (contextlib.nullcontext, torch.inference_mode, torch.no_grad)
        for mode in modes:
            with mode():
                got = explainer.explain(image, prompt, [0], generation=generation)
            assert torch.equal(got.raw_maps, expected.raw_maps), mode
            assert torch.equal(got.maps, expected.maps), mode
            assert state_of(model) == before, mode
        stream = explainer.stream(image, prompt, generation=generation)
        next(stream)
        stream.close()
        assert state_of(model) == before

        def fail(*_arguments: object) -> None:
            assert not any(module.training for module in model.modules())
            raise RuntimeError("in the middle")

        monkeypatch.setattr(explainer.adapter, "logits", fail)
        monkeypatch.setattr(explainer.adapter, "canvas_layer", fail)
        with pytest.raises(RuntimeError, match="in the middle"):
            explainer.explain(image, prompt, [0], generation=generation)
        assert state_of(model) == before

    return check
