"""The passes: exact in every topology, within their memory, and nothing left behind."""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import published
import pytest
import torch
from memory import PeakMemory
from shaped import Shape, ShapedAdapter
from torch import Tensor

from dcam_fast import Explainer, ops
from dcam_fast.attribution import Method
from dcam_fast.attribution.diffusion_cam import build_targets, raw_maps
from dcam_fast.attribution.engine import Targets, capture, differentiate
from dcam_fast.attribution.objectives import Scores, evaluate
from dcam_fast.attribution.resources import Resources, current, using
from dcam_fast.models.adapter import Adapter, AdapterError, Inputs, Trajectory
from dcam_fast.models.tiny import scenes
from dcam_fast.models.tiny.adapter import TinyAdapter

SMALL = Shape(blocks=5, width=32, mlp=48, heads=4, words=61, base=2, rows=3, columns=5, prompt=6, answer=9)
PICTURE = np.zeros((48, 80, 3), np.uint8)
Asked = tuple[Adapter[Any], Inputs, Trajectory]


def ask_tiny(attention: str) -> Asked:
    adapter = TinyAdapter(attention=attention)  # type: ignore[arg-type]
    inputs = adapter.encode(scenes.sample_scene(np.random.default_rng(5), 96, 128, 3).image, scenes.CAPTION_PROMPT)
    return adapter, inputs, adapter.generate(inputs, 8)


def ask_shaped(attention: str, dtype: torch.dtype = torch.float32) -> Asked:
    adapter = ShapedAdapter(SMALL, attention, dtype=dtype)  # type: ignore[arg-type]
    inputs = adapter.encode(PICTURE, "?")
    return adapter, inputs, adapter.generate(inputs)


ASK: dict[str, Callable[[], Asked]] = {
    "tiny, prefix": lambda: ask_tiny("prefix"),
    "tiny, joint": lambda: ask_tiny("joint"),
    "shaped, prefix": lambda: ask_shaped("prefix"),
    "shaped, joint": lambda: ask_shaped("joint"),
}


@pytest.fixture(scope="module", params=list(ASK))
def asked(request: pytest.FixtureRequest) -> Asked:
    return ASK[request.param]()


def targets_at(asked: Asked, state: Any, count: int = 6) -> Targets:
    adapter, _, trajectory = asked
    return build_targets(trajectory, torch.arange(count), state, adapter.mask_token)


def whole_graph(adapter: Any, inputs: Inputs, target: Targets, block: int, objective: Any) -> tuple[Tensor, Tensor]:
    """Activations and gradients ``[1, S, D]`` of one target with a graph through everything, parameters included."""
    adapter.model.requires_grad_(True)
    try:
        hidden = adapter.embed(inputs, target.canvases)
        for index in range(adapter.blocks):
            hidden = adapter.block(index, hidden, inputs)
            if index == block:
                features = hidden.image
        logits = adapter.logits(hidden, torch.stack((target.positions, target.distractors), 1), inputs)
        score = evaluate(objective, Scores(logits[:, 0], logits[:, 1], target.tokens)).sum()
        (gradients,) = torch.autograd.grad(score, features)
    finally:
        adapter.model.requires_grad_(False)
    return features.detach(), gradients


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("objective", ["logprob", "contrast_sum"])
@pytest.mark.parametrize("state", ["committed", "remask", "first"])
@pytest.mark.parametrize("block", [0, 2, 3])
def test_split_run_equals_the_full_graph(asked: Asked, block: int, state: str, objective: Any) -> None:
    """Cutting the graph changes nothing: to 1e-6 of the largest gradient."""
    adapter, inputs, _ = asked
    targets = targets_at(asked, state)
    (captured,) = capture(adapter, inputs, targets, (block,), objective)
    cells = inputs.views[0].cells.flatten()
    for row, target in enumerate(targets.chunks(1)):
        activations, gradients = whole_graph(adapter, inputs, target, block, objective)
        assert relative(captured.gradients[row, cells], gradients[0, cells]) <= 1e-6
        assert relative(captured.activations[row, cells], activations[0, cells]) <= 1e-6


@pytest.mark.parametrize("attention", ["prefix", "joint"])
def test_split_run_equals_another_implementation_in_float64(attention: str) -> None:
    """The embedded model's own forward, which packs its canvases and has its own attention. In float32 the two differ
    by what either differs from the truth, some 5e-6; in float64 by nothing that counts."""
    adapter, inputs, trajectory = ask_tiny(attention)
    adapter = copy.copy(adapter)
    model = adapter.model = copy.deepcopy(adapter.model).double()  # type: ignore[attr-defined]
    tables = {
        n: tuple(t.double() for t in getattr(inputs, n)) for n in ("rotary_prefix", "rotary_canvas", "rotary_joint")
    }
    pixels = inputs.pixels.double()  # type: ignore[attr-defined]
    inputs = type(inputs)(**{**vars(inputs), **tables, "pixels": pixels, "embedded": model.embed_image(pixels)})
    targets = targets_at((adapter, inputs, trajectory), "committed", 4)
    (captured,) = capture(adapter, inputs, targets, (2,), "logprob")
    cells = inputs.views[0].cells.flatten()
    for row, target in enumerate(targets.chunks(1)):
        kept: list[Tensor] = []
        hook = model.blocks[2].register_forward_hook(lambda _module, _args, output, kept=kept: kept.append(output))
        try:
            pixels.requires_grad_()
            logits = model(pixels, inputs.prompt_tokens, target.canvases[None], adapter.attention)[0]  # type: ignore[attr-defined]
        finally:
            hook.remove()
        position = int(target.positions)
        score = evaluate("logprob", Scores(logits[:, position], logits[:, position], target.tokens)).sum()
        (gradient,) = torch.autograd.grad(score, kept[0])
        # logits are float32 whatever the weights, and that is all that is left
        assert relative(captured.gradients[row, cells], gradient[0, cells]) <= 1e-7
