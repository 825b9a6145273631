"""The passes: exact in every topology, within their memory, and nothing left behind."""

from __future__ import annotations

import copy
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
from dcam_fast.attribution import GradientCAM, engine
from dcam_fast.attribution.engine import Targets, capture, differentiate
from dcam_fast.attribution.methods.gradient_cam import build_targets, raw_maps
from dcam_fast.attribution.objectives import Scores, evaluate
from dcam_fast.attribution.resources import Meter, Resources, using
from dcam_fast.benchmarks.attribution.memory import PeakMemory
from dcam_fast.benchmarks.attribution.shaped import Shape, ShapedAdapter
from dcam_fast.models.adapter import Adapter, AdapterError, Inputs, Trajectory, Word
from dcam_fast.models.tiny.adapter import TinyAdapter

SMALL = Shape(layers=5, width=32, mlp=48, heads=4, words=61, base=2, rows=3, columns=5, prompt=6, answer=9)
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
        for index in range(adapter.num_layers):
            hidden = adapter.layer(index, hidden, inputs)
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
    pixels = adapter.processor(inputs.image).double()  # type: ignore[attr-defined]
    inputs = type(inputs)(**{**vars(inputs), **tables, "embedded": model.embed_image(pixels)})
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


def test_gradients_of_a_block_do_not_outlive_their_use(asked: Asked) -> None:
    adapter, inputs, _ = asked
    seen: list[tuple[int, weakref.ref[Tensor]]] = []

    def consume(block: int, _maps: Tensor, _activations: Tensor, gradients: Tensor) -> None:
        for _, earlier in seen:
            alive = earlier()
            assert alive is None or alive.data_ptr() == gradients.data_ptr(), "autograd may go on in the same memory"
        seen.append((block, weakref.ref(gradients)))

    differentiate(adapter, inputs, targets_at(asked, "committed"), (0, 1, 3), "logprob", consume)
    blocks = [block for block, _ in seen]
    assert len(blocks) % 3 == 0
    assert blocks == [2, 1, 0] * (len(blocks) // 3)
    assert all(gradients() is None for _, gradients in seen)


@pytest.mark.parametrize("name", ["tiny, prefix", "shaped, prefix"])
def test_memory_does_not_grow_with_the_targets(name: str) -> None:
    asked = ASK[name]()
    adapter, inputs, _ = asked
    peaks = []
    for count in (2, 9):
        targets = targets_at(asked, "remask", count)
        with PeakMemory() as memory:
            raw_maps(adapter, inputs, targets, GradientCAM(target_layers=(0, 1)), inputs.views[0])
        assert memory.live < 20_000, "all that is left is the caches of the first run"
        peaks.append(memory.peak)
    canvas = 4 * 7 * adapter.embed(inputs, targets.canvases[:1]).canvas.numel()  # type: ignore[union-attr]
    maps = 4 * 2 * 7 * inputs.views[0].cells.numel()
    assert peaks[1] - peaks[0] <= canvas + maps + 8 * 7 * targets.canvases.shape[1] * 4


def test_batches_shrink_to_the_memory(asked: Asked) -> None:
    """With less memory the same maps, and never more kept than was given."""
    adapter, inputs, _ = asked
    targets = targets_at(asked, "remask")
    plenty = raw_maps(adapter, inputs, targets, GradientCAM(), inputs.views[0])
    need = kept_bytes(asked, targets.chunks(1).__next__())
    with using(Resources(max_memory=2 * need)):
        fewer = raw_maps(adapter, inputs, targets, GradientCAM(), inputs.views[0])
        torch.testing.assert_close(fewer, plenty, rtol=0, atol=1e-5)
    with (
        using(Resources(max_memory=need // 2)),
        pytest.raises(
            AdapterError, match=f"attribute: max_memory must be enough for .* one canvas, got {need // 2} byt"
        ),
    ):
        raw_maps(adapter, inputs, targets, GradientCAM(), inputs.views[0])
    with pytest.raises(ValueError, match="Resources: max_memory must be a positive whole number or None, got 0"):
        Resources(max_memory=0)


def kept_bytes(asked: Asked, target: Targets) -> int:
    """What the backward pass of one target keeps."""
    adapter, inputs, _ = asked
    kept = []

    class Watching(Meter):
        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            kept.append(self.bytes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "Meter", Watching)
        raw_maps(adapter, inputs, target, GradientCAM(), inputs.views[0])
    return sum(kept)


def test_kept_bytes_are_what_is_allocated(asked: Asked) -> None:
    """The meter sees most of what a pass allocates until its backward pass."""
    adapter, inputs, _ = asked
    target = next(targets_at(asked, "remask").chunks(1))
    live = []

    def objective(logits: Tensor) -> Tensor:
        live.append(memory.live)
        return logits[0]

    with PeakMemory() as memory:
        raw_maps(adapter, inputs, target, GradientCAM(objective=objective), inputs.views[0])
    assert 0.6 * live[0] <= kept_bytes(asked, target) <= live[0]


def test_maps_are_those_of_one_word_at_a_time(asked: Asked) -> None:
    """Shared passes, several blocks and pooling on the way give what the plain way gives."""
    adapter, inputs, _ = asked
    targets, blocks, view = targets_at(asked, "committed"), (1, 2), inputs.views[0]
    maps = raw_maps(adapter, inputs, targets, GradientCAM(target_layers=blocks), view)
    for row, target in enumerate(targets.chunks(1)):
        graphs = [whole_graph(adapter, inputs, target, block, "logprob") for block in blocks]
        expected = ops.pool([a for a, _ in graphs], [g for _, g in graphs], view.cells.flatten(), "layer_cam")
        torch.testing.assert_close(maps[row].flatten(), expected[0], rtol=0, atol=1e-5)


def test_targets_of_one_map_share_a_gradient(asked: Asked) -> None:
    adapter, inputs, _ = asked
    single = targets_at(asked, "first", 3)
    together = replace(single, maps=torch.tensor([0, 0, 1]))
    (each,), (shared,) = (capture(adapter, inputs, targets, (1,), "logit") for targets in (single, together))
    expected = torch.stack((each.gradients[0] + each.gradients[1], each.gradients[2]))
    torch.testing.assert_close(shared.gradients, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


def test_a_phrase_with_one_way_back(asked: Asked) -> None:
    """A word of one token is what it was; a phrase is masked as a whole and its objectives summed."""
    adapter, inputs, trajectory = asked
    view, phrase = inputs.views[0], Word("", (1, 2, 4))
    words = [Word("", (0,)), phrase]
    shared = GradientCAM(shared=True).raw_maps(adapter, inputs, trajectory, words, view)
    exact = GradientCAM().raw_maps(adapter, inputs, trajectory, words, view)
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


def test_a_tail_of_all_blocks_is_the_exact_one(asked: Asked) -> None:
    adapter, inputs, _ = asked
    targets, view = targets_at(asked, "remask"), inputs.views[0]
    exact = raw_maps(adapter, inputs, targets, GradientCAM(target_layers=(1,)), view)
    whole = raw_maps(adapter, inputs, targets, GradientCAM(target_layers=(1,), depth=99), view)
    torch.testing.assert_close(whole, exact, rtol=0, atol=1e-6)
    short = raw_maps(adapter, inputs, targets, GradientCAM(target_layers=(1,), depth=1), view)
    assert short.isfinite().all()
    assert (short - exact).abs().max() > 1e-3
    with pytest.raises(ValueError, match="attribute: depth must be at least one block, got 0"):
        raw_maps(adapter, inputs, targets, GradientCAM(depth=0), view)


def test_deterministic_mode_is_scoped_and_repeats_its_bits() -> None:
    explainer = Explainer(ask_tiny("joint")[0], deterministic=True)
    picture = scenes.sample_scene(np.random.default_rng(3)).image
    seen = []

    def objective(logits: Tensor) -> Tensor:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return logits[5]

    first, second = (
        explainer.explain(picture, targets=[0, 1], method=GradientCAM(objective=objective)) for _ in range(2)
    )
    assert first.maps.equal(second.maps)
    assert all(seen)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_tail_gives_the_same_maps() -> None:
    adapter = ShapedAdapter(replace(SMALL, layers=3), "joint")
    inputs = adapter.encode(PICTURE, "?")
    targets = targets_at((adapter, inputs, adapter.generate(inputs)), "first", 2)
    plain = raw_maps(adapter, inputs, targets, GradientCAM(target_layers=(1,)), inputs.views[0])
    with using(Resources(compile=True)):
        compiled = raw_maps(adapter, inputs, targets, GradientCAM(target_layers=(1,)), inputs.views[0])
    torch.testing.assert_close(compiled, plain, rtol=0, atol=1e-4)
