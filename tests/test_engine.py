"""The passes: exact in every topology, within their memory, and without leaks."""

from __future__ import annotations

import copy
import os
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dcam_fast import Explainer, ops, scenes
from dcam_fast.attribution import Answer, GradientCAM, engine
from dcam_fast.attribution.engine import capture, differentiate
from dcam_fast.attribution.methods.gradient_cam import build_targets, maps_of_targets
from dcam_fast.attribution.objectives import Scores, evaluate
from dcam_fast.attribution.resources import Meter, Resources, computing
from dcam_fast.attribution.target_batch import TargetBatch
from dcam_fast.benchmarks.attribution.memory import PeakMemory
from dcam_fast.benchmarks.attribution.shaped import Shape, ShapedAdapter
from dcam_fast.models.adapter import AdapterError, Inputs, Word
from dcam_fast.models.generation import Generation
from dcam_fast.models.tiny.adapter import TinyAdapter

SMALL = Shape(layers=5, width=32, mlp=48, heads=4, words=61, base=2, rows=3, columns=5, prompt=6, answer=9)
PICTURE = np.zeros((48, 80, 3), np.uint8)


def ask_tiny(attention: str) -> Answer:
    adapter = TinyAdapter(attention=attention)  # type: ignore[arg-type]
    inputs = adapter.encode(scenes.sample_scene(np.random.default_rng(5), 96, 128, 3).image, scenes.CAPTION_PROMPT)
    return Answer(adapter, inputs, adapter.generate(inputs, Generation(8)))


def ask_shaped(attention: str, dtype: torch.dtype = torch.float32) -> Answer:
    adapter = ShapedAdapter(SMALL, attention, dtype=dtype)  # type: ignore[arg-type]
    inputs = adapter.encode(PICTURE, "?")
    return Answer(adapter, inputs, adapter.generate(inputs))


ASK: dict[str, Callable[[], Answer]] = {
    "tiny, prefix": lambda: ask_tiny("prefix"),
    "tiny, joint": lambda: ask_tiny("joint"),
    "shaped, prefix": lambda: ask_shaped("prefix"),
    "shaped, joint": lambda: ask_shaped("joint"),
}


@pytest.fixture(scope="module", params=list(ASK))
def answer(request: pytest.FixtureRequest) -> Answer:
    return ASK[request.param]()


def targets_at(answer: Answer, state: Any, count: int = 6) -> TargetBatch:
    return build_targets(answer.trajectory, torch.arange(count), state, answer.adapter.mask_token)


def token_maps(answer: Answer, targets: TargetBatch, method: GradientCAM) -> Tensor:
    (maps,) = maps_of_targets(answer, targets, [method])
    return maps


def whole_graph(adapter: Any, inputs: Inputs, target: TargetBatch, layer: int, objective: Any) -> tuple[Tensor, Tensor]:
    """Activations and gradients `[1, S, D]` of one target with a graph through everything, parameters included."""
    adapter.model.requires_grad_(True)
    try:
        hidden = adapter.embed(inputs, target.canvases)
        for index in range(adapter.num_layers):
            hidden = adapter.layer(index, hidden, inputs)
            if index == layer:
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
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_split_run_equals_the_full_graph(answer: Answer, layer: int, state: str, objective: Any) -> None:
    """Cutting the graph changes nothing: to 1e-6 of the largest gradient."""
    adapter, inputs = answer.adapter, answer.inputs
    targets = targets_at(answer, state)
    (captured,) = capture(adapter, inputs, targets, (layer,), objective)
    cells = inputs.views[0].cells.flatten()
    for row, target in enumerate(targets.chunks(1)):
        activations, gradients = whole_graph(adapter, inputs, target, layer, objective)
        assert relative(captured.gradients[row, cells], gradients[0, cells]) <= 1e-6
        assert relative(captured.activations[row, cells], activations[0, cells]) <= 1e-6


@pytest.mark.parametrize("attention", ["prefix", "joint"])
def test_split_run_equals_another_implementation_in_float64(attention: str) -> None:
    """The embedded model's own forward, which packs its canvases and has its own attention. In float32 the two differ
    by what either differs from the truth, some 5e-6; in float64 by nothing that counts."""
    answer = ask_tiny(attention)
    adapter, inputs = answer.adapter, answer.inputs
    adapter = copy.copy(adapter)
    model = adapter.model = copy.deepcopy(adapter.model).double()  # type: ignore[attr-defined]
    tables = {
        n: tuple(t.double() for t in getattr(inputs, n)) for n in ("rotary_prefix", "rotary_canvas", "rotary_joint")
    }
    pixels = adapter.processor(inputs.image).double()  # type: ignore[attr-defined]
    inputs = type(inputs)(**{**vars(inputs), **tables, "embedded": model.embed_image(pixels)})
    targets = targets_at(replace(answer, adapter=adapter, inputs=inputs), "committed", 4)
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


def test_gradients_of_a_layer_are_freed_after_use(answer: Answer) -> None:
    adapter, inputs = answer.adapter, answer.inputs
    recorded: list[tuple[int, weakref.ref[Tensor]]] = []

    def consume(layer: int, _maps: Tensor, _activations: Tensor, gradients: Tensor) -> None:
        for _, earlier in recorded:
            alive = earlier()
            assert alive is None or alive.data_ptr() == gradients.data_ptr(), "autograd may go on in the same memory"
        recorded.append((layer, weakref.ref(gradients)))

    differentiate(adapter, inputs, targets_at(answer, "committed"), (0, 1, 3), "logprob", consume)
    layers = [layer for layer, _ in recorded]
    assert len(layers) % 3 == 0
    assert layers == [2, 1, 0] * (len(layers) // 3)
    assert all(gradients() is None for _, gradients in recorded)


@pytest.mark.parametrize("name", ["tiny, prefix", "shaped, prefix"])
def test_memory_does_not_grow_with_the_targets(name: str) -> None:
    answer = ASK[name]()
    adapter, inputs = answer.adapter, answer.inputs
    peaks = []
    for count in (2, 9):
        targets = targets_at(answer, "remask", count)
        with PeakMemory() as memory:
            token_maps(answer, targets, GradientCAM(target_layers=(0, 1)))
        assert memory.live < 20_000, "all that is left is the caches of the first run"
        peaks.append(memory.peak)
    canvas = 4 * 7 * adapter.embed(inputs, targets.canvases[:1]).canvas.numel()  # type: ignore[union-attr]
    maps = 4 * 2 * 7 * inputs.views[0].cells.numel()
    assert peaks[1] - peaks[0] <= canvas + maps + 8 * 7 * targets.canvases.shape[1] * 4


def test_batches_shrink_to_the_memory(answer: Answer) -> None:
    """With less memory the same maps, and never more kept than was given."""
    targets = targets_at(answer, "remask")
    plenty = token_maps(answer, targets, GradientCAM())
    need = kept_bytes(answer, targets.chunks(1).__next__())
    with computing(answer.adapter, Resources(max_memory=2 * need)):
        fewer = token_maps(answer, targets, GradientCAM())
        torch.testing.assert_close(fewer, plenty, rtol=0, atol=1e-5)
    with (
        computing(answer.adapter, Resources(max_memory=need // 2)),
        pytest.raises(
            AdapterError, match=f"Resources: max_memory must be enough for .* one canvas, got {need // 2} byt"
        ),
    ):
        token_maps(answer, targets, GradientCAM())
    with pytest.raises(ValueError, match="Resources: max_memory must be a positive whole number or None, got 0"):
        Resources(max_memory=0)


def kept_bytes(answer: Answer, target: TargetBatch) -> int:
    """What the backward pass of one target keeps."""
    kept = []

    class Watching(Meter):
        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            kept.append(self.bytes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "Meter", Watching)
        token_maps(answer, target, GradientCAM())
    return sum(kept)


def test_kept_bytes_are_what_is_allocated(answer: Answer) -> None:
    """The meter sees most of what a pass allocates until its backward pass."""
    target = next(targets_at(answer, "remask").chunks(1))
    live = []

    def objective(logits: Tensor) -> Tensor:
        live.append(memory.live)
        return logits[0]

    with PeakMemory() as memory:
        token_maps(answer, target, GradientCAM(objective=objective))
    assert 0.6 * live[0] <= kept_bytes(answer, target) <= live[0]


def test_maps_equal_those_of_separate_passes(answer: Answer) -> None:
    """Shared passes, several layers and pooling on the way give the same maps as one full graph for each target."""
    adapter, inputs = answer.adapter, answer.inputs
    targets, layers, view = targets_at(answer, "committed"), (1, 2), inputs.views[0]
    maps = token_maps(answer, targets, GradientCAM(target_layers=layers))
    for row, target in enumerate(targets.chunks(1)):
        graphs = [whole_graph(adapter, inputs, target, layer, "logprob") for layer in layers]
        expected = ops.pool([a for a, _ in graphs], [g for _, g in graphs], view.cells.flatten(), "layer_cam")
        torch.testing.assert_close(maps[row].flatten(), expected[0], rtol=0, atol=1e-5)


def test_targets_of_one_map_share_a_gradient(answer: Answer) -> None:
    adapter, inputs = answer.adapter, answer.inputs
    single = targets_at(answer, "first", 3)
    together = replace(single, maps=torch.tensor([0, 0, 1]))
    (each,), (shared,) = (capture(adapter, inputs, targets, (1,), "logit") for targets in (single, together))
    expected = torch.stack((each.gradients[0] + each.gradients[1], each.gradients[2]))
    torch.testing.assert_close(shared.gradients, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


def test_a_shared_phrase_costs_one_backward_pass(answer: Answer) -> None:
    """A word of one token is what it was; a phrase is masked as a whole and its objectives summed."""
    adapter, inputs, trajectory = answer.adapter, answer.inputs, answer.trajectory
    view, phrase = answer.view, Word("", (1, 2, 4))
    words = [Word("", (0,)), phrase]
    shared = GradientCAM(shared=True).raw_maps(answer, words)
    exact = GradientCAM().raw_maps(answer, words)
    torch.testing.assert_close(shared[0], exact[0], rtol=0, atol=1e-5)
    assert (shared[1] - exact[1]).abs().max() > 1e-3
    positions = torch.tensor(phrase.positions)
    canvas = trajectory.tokens.clone()
    canvas[positions] = adapter.mask_token
    at_once = replace(build_targets(trajectory, positions, "final", adapter.mask_token), canvases=canvas.expand(3, -1))
    (captured,) = capture(adapter, inputs, at_once, adapter.default_layers, "logprob")
    cells = view.cells.flatten()
    expected = ops.pool(captured.activations[:1], captured.gradients.sum(0, keepdim=True), cells, "layer_cam")
    torch.testing.assert_close(shared[1].flatten(), expected[0], rtol=0, atol=1e-3)


def test_depth_of_all_layers_is_exact(answer: Answer) -> None:
    targets = targets_at(answer, "remask")
    exact = token_maps(answer, targets, GradientCAM(target_layers=(1,)))
    whole = token_maps(answer, targets, GradientCAM(target_layers=(1,), depth=99))
    torch.testing.assert_close(whole, exact, rtol=0, atol=1e-6)
    short = token_maps(answer, targets, GradientCAM(target_layers=(1,), depth=1))
    assert short.isfinite().all()
    assert (short - exact).abs().max() > 1e-3
    with pytest.raises(ValueError, match="GradientCAM: depth must be a positive whole number or None, got 0"):
        token_maps(answer, targets, GradientCAM(depth=0))


def test_deterministic_mode_is_scoped_and_bitwise_reproducible() -> None:
    explainer = Explainer(ask_tiny("joint").adapter, deterministic=True)
    picture = scenes.sample_scene(np.random.default_rng(3)).image
    recorded = []

    def objective(logits: Tensor) -> Tensor:
        recorded.append(torch.are_deterministic_algorithms_enabled())
        return logits[5]

    first, second = (
        explainer.explain(picture, targets=[0, 1], method=GradientCAM(objective=objective)) for _ in range(2)
    )
    assert first.maps.equal(second.maps)
    assert all(recorded)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.skipif(
    os.environ.get("ATEN_CPU_CAPABILITY") == "default",
    reason="torch's compiler writes C++ without the vector types that it uses",
)
def test_compiled_layers_give_the_same_maps() -> None:
    adapter = ShapedAdapter(replace(SMALL, layers=3), "joint")
    inputs = adapter.encode(PICTURE, "?")
    answer = Answer(adapter, inputs, adapter.generate(inputs))
    targets = targets_at(answer, "first", 2)
    plain = token_maps(answer, targets, GradientCAM(target_layers=(1,)))
    with computing(answer.adapter, Resources(compile=True)):
        compiled = token_maps(answer, targets, GradientCAM(target_layers=(1,)))
    torch.testing.assert_close(compiled, plain, rtol=0, atol=1e-4)
