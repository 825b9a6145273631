"""The attribution passes: exact gradients, answer states, error messages, and a clean model afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dcam_fast import models, scenes
from dcam_fast.attribution.answer import Answer
from dcam_fast.attribution.answer_states import canvases
from dcam_fast.attribution.engine import capture
from dcam_fast.attribution.methods.gradient_cam import GradientCAM, build_targets, maps_of_targets
from dcam_fast.attribution.methods.presets import METHODS, method_named
from dcam_fast.attribution.objectives import Scores, evaluate
from dcam_fast.attribution.probabilities import log_probabilities
from dcam_fast.attribution.target_batch import TargetBatch
from dcam_fast.models.adapter import AdapterError, Hidden, Trajectory
from dcam_fast.models.tiny.adapter import TinyAdapter, TinyInputs
from dcam_fast.models.tiny.processing import MASK

ATTENTIONS = ("prefix", "joint")


@pytest.fixture(scope="module", params=ATTENTIONS)
def adapter(request: pytest.FixtureRequest) -> TinyAdapter:
    return TinyAdapter(attention=request.param)


@pytest.fixture(scope="module")
def generated(adapter: TinyAdapter) -> tuple[TinyInputs, Trajectory]:
    scene = scenes.sample_scene(np.random.default_rng(5), 96, 128, 3)
    inputs = adapter.encode(scene.image, scenes.CAPTION_PROMPT)
    return inputs, adapter.generate(inputs)


def make_targets(trajectory: Trajectory, count: int, state: str = "committed") -> TargetBatch:
    return build_targets(trajectory, torch.arange(count), state, MASK)  # type: ignore[arg-type]


def full_graph_gradient(
    adapter: TinyAdapter, inputs: TinyInputs, targets: TargetBatch, row: int, layer: int
) -> tuple[Tensor, Tensor]:
    """The published flow on one target: the model's own packed forward, a graph through all of it, a hook for the
    layer."""
    model = adapter.model
    kept: list[Tensor] = []

    def keep(_module: object, _args: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    handle = model.blocks[layer].register_forward_hook(keep)
    try:
        pixels = adapter.processor(inputs.image).requires_grad_()
        logits = model(pixels, inputs.prompt_tokens, targets.canvases[None, row : row + 1], adapter.attention)[0, 0]
    finally:
        handle.remove()
    position, distractor = int(targets.positions[row]), int(targets.distractors[row])
    score = evaluate(
        "contrast", Scores(logits[position][None], logits[distractor][None], targets.tokens[row : row + 1])
    )
    score.sum().backward()
    cells = inputs.views[0].cells.flatten()
    assert kept[0].grad is not None
    return kept[0][0, cells].detach(), kept[0].grad[0, cells]


@pytest.mark.parametrize("layer", [0, 2, 4])
def test_gradients_are_those_of_the_models_own_forward(
    adapter: TinyAdapter, generated: tuple[TinyInputs, Trajectory], layer: int
) -> None:
    inputs, trajectory = generated
    targets = make_targets(trajectory, 4)
    cells = inputs.views[0].cells.flatten()
    (captured,) = capture(adapter, inputs, targets, (layer,), "contrast")
    for row in range(len(targets)):
        activations, gradients = full_graph_gradient(adapter, inputs, targets, row, layer)
        scale = gradients.abs().max()
        # another implementation of the same sums: what float32 leaves of either (tests/test_engine.py has the proof)
        assert (captured.gradients[row, cells] - gradients).abs().max() <= 1e-5 * scale
        torch.testing.assert_close(captured.activations[row, cells], activations, rtol=1e-4, atol=1e-5)


def test_several_layers_in_one_pass_equal_separate_passes(
    adapter: TinyAdapter, generated: tuple[TinyInputs, Trajectory]
) -> None:
    inputs, trajectory = generated
    targets = make_targets(trajectory, 5)
    together = capture(adapter, inputs, targets, (0, 1, 3), "logprob")
    for layer, captured in zip((0, 1, 3), together, strict=True):
        (alone,) = capture(adapter, inputs, targets, (layer,), "logprob")
        prefix = inputs.views[0].cells.numel()
        expected = alone.activations[:, :prefix].expand(len(targets), -1, -1)
        torch.testing.assert_close(captured.activations[:, :prefix], expected)
        scale = alone.gradients.abs().max()
        assert (captured.gradients - alone.gradients)[:, :prefix].abs().max() <= 1e-5 * scale


def test_targets_do_not_affect_each_other(adapter: TinyAdapter, generated: tuple[TinyInputs, Trajectory]) -> None:
    inputs, trajectory = generated
    answer, single = (
        Answer(adapter, inputs, trajectory),
        build_targets(trajectory, torch.tensor([17]), "committed", MASK),
    )
    (together,) = maps_of_targets(answer, make_targets(trajectory, 20), [GradientCAM()])
    (alone,) = maps_of_targets(answer, single, [GradientCAM()])
    # min-max can magnify rounding where a map is nearly flat, so the tolerance is on 0..1 maps
    torch.testing.assert_close(together[17:18], alone, rtol=0, atol=1e-3)


def test_no_targets_give_no_maps(adapter: TinyAdapter, generated: tuple[TinyInputs, Trajectory]) -> None:
    inputs, trajectory = generated
    (maps,) = maps_of_targets(Answer(adapter, inputs, trajectory), make_targets(trajectory, 0), [GradientCAM()])
    assert maps.shape == (0, 12, 16)


def test_hooks_and_gradients_are_removed(adapter: TinyAdapter, generated: tuple[TinyInputs, Trajectory]) -> None:
    inputs, trajectory = generated

    def fail(_logits: Tensor) -> Tensor:
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        capture(adapter, inputs, make_targets(trajectory, 2), (1,), fail)
    with torch.no_grad():
        capture(adapter, inputs, make_targets(trajectory, 2), (1,), "logit")
    assert torch.is_grad_enabled()
    for module in adapter.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    for parameter in adapter.model.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((5,), r"layer must be 0 to 4 for tiny, got 5 \(no gradient reaches"),
        ((-1,), "layer must be 0 to 4 for tiny, got -1"),
        ((), "layers must be at least one layer, got none"),
        ((2, 1), r"layers must be ascending and distinct, got \(2, 1\)"),
    ],
)
def test_invalid_layers_are_rejected(
    adapter: TinyAdapter, generated: tuple[TinyInputs, Trajectory], layers: tuple[int, ...], message: str
) -> None:
    inputs, trajectory = generated
    with pytest.raises(AdapterError, match=message):
        capture(adapter, inputs, make_targets(trajectory, 1), layers, "logit")


def test_the_last_layer_has_no_gradient() -> None:
    """Why it is rejected: the logits do not depend on the image rows at the output of the last layer."""
    adapter = TinyAdapter(attention="joint")
    scene = scenes.sample_scene(np.random.default_rng(1))
    inputs = adapter.encode(scene.image, scenes.CAPTION_PROMPT)
    states = adapter.embed(inputs, torch.full((1, 36), MASK)).image
    for layer in adapter.model.layers():  # the adapter's last layer returns the answer's rows alone
        states = layer(states, inputs.rotary_joint)
    hidden = Hidden(states.detach().requires_grad_())
    (gradient,) = torch.autograd.grad(adapter.logits(hidden, torch.tensor([[0]]), inputs).sum(), hidden.image)
    assert gradient[:, inputs.views[0].cells.flatten()].abs().max() == 0


def test_answer_states() -> None:
    trajectory = Trajectory(torch.tensor([10, 11, 12, 13]), torch.tensor([2, 0, 1, 0]), 4)
    positions = torch.tensor([0, 2])
    assert canvases(trajectory, positions, "committed", 1).tolist() == [[1, 11, 12, 13], [1, 11, 1, 13]]
    assert canvases(trajectory, positions, "remask", 1).tolist() == [[1, 11, 12, 13], [10, 11, 1, 13]]
    assert canvases(trajectory, positions, "first", 1).tolist() == [[1, 1, 1, 1]] * 2
    assert canvases(trajectory, positions, "final", 1).tolist() == [[10, 11, 12, 13]] * 2
    assert canvases(trajectory, positions, 1, 1).tolist() == [[1, 11, 1, 13]] * 2
    with pytest.raises(AdapterError, match="explain: state as a step must be 0 to 2, which generation ran, got 3"):
        canvases(trajectory, positions, 3, 1)
    with pytest.raises(ValueError, match=r"explain: state must be a step or one of committed, .*, got 'last'"):
        canvases(trajectory, positions, "last", 1)  # type: ignore[arg-type]


def test_objectives() -> None:
    target, distractor = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0.5, 0.0, 3.0]])
    scores = Scores(target, distractor, torch.tensor([2]))
    assert evaluate("logit", scores).tolist() == [4.0]
    assert evaluate("contrast", scores).tolist() == [1.0]
    assert evaluate("contrast_sum", scores).tolist() == [3.5]
    torch.testing.assert_close(evaluate("logprob", scores), target.log_softmax(-1)[:, 2])
    assert evaluate(lambda logits: logits[1] * 2, scores).tolist() == [4.0]
    with pytest.raises(ValueError, match=r"GradientCAM: objective must return a scalar, got shape \(3,\)"):
        evaluate(lambda logits: logits, scores)
    with pytest.raises(ValueError, match=r"GradientCAM: objective must be one of logprob, .* got 'margin'"):
        evaluate("margin", scores)  # type: ignore[arg-type]


def test_committed_state_is_the_state_of_the_generation(
    adapter: TinyAdapter, generated: tuple[TinyInputs, Trajectory]
) -> None:
    """Replayed at the canvas it was committed from, every token is again the most probable one."""
    inputs, trajectory = generated
    targets = make_targets(trajectory, len(trajectory.tokens))
    hidden = adapter.embed(inputs, targets.canvases)
    for index in range(adapter.num_layers):
        hidden = adapter.layer(index, hidden, inputs)
    logits = adapter.logits(hidden, targets.positions[:, None], inputs)[:, 0]
    logits[:, MASK] = -torch.inf
    written = logits.gather(-1, trajectory.tokens[:, None])[:, 0]
    assert (logits.amax(-1) - written).max() <= 1e-3  # rounding may turn nearly equal guesses round
    probabilities = log_probabilities(adapter, inputs, targets)
    assert probabilities.shape == (len(targets),)
    assert bool((probabilities <= 0).all())


def test_methods_by_name() -> None:
    assert method_named("published") is METHODS["published"]
    with pytest.raises(
        ValueError, match=r"explain: method must be one of default, published, .* or an AttributionMethod, got 'best'"
    ):
        method_named("best")


def test_unknown_model() -> None:
    need = "'tiny', the embedded one, a folder with a config.json, or a Hub id"
    with pytest.raises(AdapterError, match=f"load: model must be {need}, got 'llada'"):
        models.load("llada")
