"""DiffusionGemma: its own states replayed, gradients those of transformers' own forward, damaged files refused."""

from __future__ import annotations

import gc
import sys
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcam_fast import Explainer
from dcam_fast.attribution.answer_states import canvases
from dcam_fast.attribution.engine import capture
from dcam_fast.attribution.methods.gradient_cam import GradientCAM, build_targets
from dcam_fast.attribution.probabilities import log_probabilities
from dcam_fast.models import AdapterError
from dcam_fast.models.adapter import OPEN
from dcam_fast.models.diffusion_gemma.adapter import DiffusionGemmaAdapter
from dcam_fast.models.generation import Generation
from dcam_fast.words import is_sign

gemma = pytest.importorskip("gemma", reason="this transformers is older than DiffusionGemma")

PROMPT = "what is this"
STEPS = 5
PLAIN = Generation(STEPS)


def picture(h: int = 200, w: int = 300, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


@pytest.mark.parametrize("window", [64, 16])  # longer and shorter than the prompt
def test_replay_has_the_logits_of_the_generation(window: int) -> None:
    adapter = gemma.make_adapter(window)
    inputs = adapter.encode(picture(), PROMPT)
    trajectory, recorded, logits = gemma.generated(adapter, inputs, PLAIN)
    assert len(recorded) == STEPS
    assert trajectory.canvases is not None
    for step in range(STEPS):
        canvas = trajectory.canvases[step : step + 1]
        assert canvas[:, :-1].equal(recorded[step]["decoder_input_ids"])
        torch.testing.assert_close(gemma.replayed(adapter, inputs, canvas), logits[step], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        gemma.replayed(adapter, inputs, trajectory.canvases), torch.cat(logits), rtol=1e-5, atol=1e-5
    )
    # the conditioning matters: without it the logits are others
    bare = trajectory.canvases[1:2].clone()
    bare[:, -1] = 0
    assert not torch.allclose(gemma.replayed(adapter, inputs, bare), logits[1], atol=1e-3)


def test_replay_of_a_checkpoint_with_a_static_cache() -> None:
    adapter = gemma.make_adapter()
    inputs = adapter.encode(picture(), PROMPT)
    expected = adapter.generate(inputs, Generation(STEPS)).tokens
    adapter.model.generation_config.cache_implementation = "static"
    trajectory, _, logits = gemma.generated(adapter, inputs, PLAIN)
    assert trajectory.tokens.equal(expected)
    assert trajectory.canvases is not None
    torch.testing.assert_close(
        gemma.replayed(adapter, inputs, trajectory.canvases[2:3]), logits[2], rtol=1e-5, atol=1e-5
    )


def test_temperature(adapter: DiffusionGemmaAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same in every step, and the replay is that of the answer that it gives."""
    processor = sys.modules[adapter.model.generate.__module__].LinearTemperatureScheduleLogitsProcessor
    scale, scaled = processor.__call__, []

    def spy(self: Any, input_ids: Tensor, scores: Tensor, cur_step: Tensor) -> Tensor:
        out = scale(self, input_ids, scores, cur_step)
        scaled.append(out.equal(scores / 0.25))
        return out

    monkeypatch.setattr(processor, "__call__", spy)
    inputs = adapter.encode(picture(), PROMPT)
    generation = Generation(STEPS, temperature=0.25, seed=3)
    trajectory, recorded, logits = gemma.generated(adapter, inputs, generation)
    assert scaled == [True] * len(recorded)
    torch.testing.assert_close(
        gemma.replayed(adapter, inputs, trajectory.canvases), torch.cat(logits), rtol=1e-5, atol=1e-5
    )
    assert adapter.generate(inputs, generation).tokens.equal(trajectory.tokens)
    other = adapter.generate(inputs, replace(generation, seed=4))
    assert not other.canvases[0, :-1].equal(trajectory.canvases[0, :-1]), "the noise that it begins from"


def test_image_span_is_bidirectional(adapter: DiffusionGemmaAdapter) -> None:
    inputs = adapter.encode(picture(), PROMPT)
    cells = inputs.views[0].cells.flatten()
    for mask in inputs.masks.values():
        assert mask is not None
        assert bool(mask[0, 0, cells[0], cells[-1]])
        assert not bool(mask[0, 0, cells[0], cells[-1] + 1])
    assert inputs.tokens[0, cells].eq(adapter.config.image_token_id).all()


def test_steps_mark_the_last_change_of_a_guess(adapter: DiffusionGemmaAdapter) -> None:
    inputs = adapter.encode(picture(), PROMPT)
    trajectory, _, logits = gemma.generated(adapter, inputs, PLAIN)
    guesses = torch.cat(logits).argmax(-1)  # a temperature does not change the best guess
    assert trajectory.tokens.equal(guesses[-1])
    for position, step in enumerate(trajectory.steps.tolist()):
        assert guesses[step:, position].eq(trajectory.tokens[position]).all()
        assert step == 0 or guesses[step - 1, position] != trajectory.tokens[position]


def keeping(states: dict[int, Tensor], index: int) -> Any:
    def hook(_module: Any, _args: Any, output: Tensor) -> None:
        output.requires_grad_()
        output.retain_grad()
        states[index] = output

    return hook


@pytest.mark.parametrize("window", [64, 16])
def test_split_gradients_are_those_of_the_full_graph(window: int) -> None:
    adapter = gemma.make_adapter(window)
    inputs = adapter.encode(picture(), PROMPT)
    trajectory, recorded, _ = gemma.generated(adapter, inputs, PLAIN)
    positions = torch.tensor([0, 5, 11])
    target_layers = tuple(range(adapter.num_layers - 1))
    targets = build_targets(trajectory, positions, "committed", adapter.mask_token)
    captured = capture(adapter, inputs, targets, target_layers, "logit")
    for row, position in enumerate(positions.tolist()):
        kwargs = recorded[int(trajectory.steps[position])]
        states: dict[int, Tensor] = {}

        layers = adapter.model.model.encoder.language_model.layers
        hooks = [layers[index].register_forward_hook(keeping(states, index)) for index in target_layers]
        logits = adapter.model(
            input_ids=inputs.tokens,
            attention_mask=inputs.masks,
            decoder_input_ids=kwargs["decoder_input_ids"],
            self_conditioning_logits=kwargs["self_conditioning_logits"],
            **inputs.image_tokens,
        ).logits
        for hook in hooks:
            hook.remove()
        logits[0, position, trajectory.tokens[position]].backward()
        for index in target_layers:
            expected, got = states[index].grad, captured[index].gradients[row]
            assert expected is not None
            assert expected.abs().max() > 0
            assert (got - expected[0]).abs().max() <= 1e-6 * expected.abs().max()
            torch.testing.assert_close(captured[index].activations[row], states[index][0].detach())


def test_the_last_layer_is_no_target_layer(adapter: DiffusionGemmaAdapter) -> None:
    inputs = adapter.encode(picture(), PROMPT)
    last = adapter.num_layers - 1
    adapter.check_layers((last - 1,))
    with pytest.raises(AdapterError, match=f"layer must be 0 to {last - 1} .* got {last}"):
        adapter.check_layers((last,))
    image = inputs.embedded.clone().requires_grad_()
    output, _ = adapter.prefix_layer(last, image, inputs)
    assert output is image  # nothing reads the output of the encoder's last layer


@pytest.mark.parametrize(("h", "w"), [(200, 300), (90, 700), (640, 50), (48, 48)])
def test_changed_pixels_change_their_cell(h: int, w: int) -> None:
    adapter = gemma.make_adapter()
    blank = np.full((h, w, 3), 128, np.uint8)
    inputs = adapter.encode(blank, PROMPT)
    view = inputs.views[0]
    assert view.boxes[0, 0, :2].tolist() == [0, 0]
    assert view.boxes[-1, -1, 2:].tolist() == [w, h]
    rows, columns = view.cells.shape
    for row, column in {(0, 0), (rows - 1, columns - 1), (rows // 2, columns // 3), (0, columns - 1)}:
        x0, y0, x1, y1 = view.boxes[row, column].round().int().tolist()
        changed = blank.copy()
        changed[y0:y1, x0:x1] = (255, 0, 60)
        with torch.no_grad():
            before, after = (_patch_means(adapter, image) for image in (blank, changed))
        change = (after - before).abs().sum(-1).view(rows, columns)
        assert divmod(int(change.argmax()), columns) == (row, column)


def _patch_means(adapter: DiffusionGemmaAdapter, image: NDArray[np.uint8]) -> Tensor:
    """What the vision tower pools before any attention, one row a cell in the order of the image tokens."""
    inputs = adapter.encode(image, PROMPT)
    tower = adapter.model.model.encoder.vision_tower
    positions = inputs.image_tokens["image_position_ids"]
    pixels = inputs.image_tokens["pixel_values"]
    padding = (positions == -1).all(-1)
    pooled, mask = tower.pooler(
        hidden_states=pixels[..., : tower.pooler.hidden_size],
        pixel_position_ids=positions,
        padding_positions=padding,
        output_length=pixels.shape[1] // adapter.processor.pooling_kernel_size**2,
    )
    return pooled[mask]


@pytest.mark.parametrize("state", ["remask", "committed", "first", "final", 2])
def test_explains_end_to_end(adapter: DiffusionGemmaAdapter, state: str | int) -> None:
    explainer = Explainer(adapter)
    method = GradientCAM(state=state)  # type: ignore[arg-type]
    got = explainer.explain(picture(130, 420), PROMPT, "all", method=method, generation=Generation(steps=STEPS))
    again = explainer.explain(picture(130, 420), PROMPT, "all", method=method, generation=Generation(steps=STEPS))
    inputs = adapter.encode(picture(130, 420), PROMPT)
    assert got.raw_maps.shape == (len(got.targets), *inputs.views[0].cells.shape)
    assert got.raw_maps.isfinite().all()
    assert (got.raw_maps.flatten(1).amax(1) > 0).all()
    torch.testing.assert_close(got.maps, again.maps, rtol=0, atol=1e-4)
    assert got.answer == again.answer
    held = [position for target in got.targets for position in target.positions]
    assert held == sorted(held)
    assert {token.position for token in got.tokens if not is_sign(token.text)} <= set(held)


def test_states(adapter: DiffusionGemmaAdapter) -> None:
    inputs = adapter.encode(picture(), PROMPT)
    trajectory = adapter.generate(inputs, Generation(STEPS))
    assert trajectory.canvases is not None
    positions = torch.tensor([2, 7])
    remask = canvases(trajectory, positions, "remask", adapter.mask_token)
    for row, position in enumerate(positions.tolist()):
        expected = trajectory.tokens.clone()
        expected[position] = trajectory.canvases[0, position]
        assert remask[row].tolist() == [*expected.tolist(), 0]
    assert canvases(trajectory, positions, 3, adapter.mask_token)[1].equal(trajectory.canvases[3])
    with pytest.raises(AdapterError, match=f"step must be 0 to {STEPS - 1}"):
        canvases(trajectory, positions, STEPS, adapter.mask_token)
    with pytest.raises(AdapterError, match="shared must be False"):
        Explainer(adapter).explain(
            picture(), PROMPT, "all", method=GradientCAM(shared=True), generation=Generation(steps=2)
        )


def test_conditioning_goes_with_its_trajectory() -> None:
    adapter = gemma.make_adapter()
    inputs = adapter.encode(picture(), PROMPT)
    trajectory = adapter.generate(inputs, Generation(STEPS))
    targets = build_targets(trajectory, trajectory.steps.argmax()[None], STEPS - 1, adapter.mask_token)
    before = log_probabilities(adapter, inputs, targets)
    other = adapter.generate(adapter.encode(picture(seed=1), PROMPT), Generation(STEPS))
    torch.testing.assert_close(log_probabilities(adapter, inputs, targets), before)
    del trajectory, other
    gc.collect()
    assert not adapter._conditioning
    with pytest.raises(AdapterError, match="of a trajectory that still exists"):
        log_probabilities(adapter, inputs, targets)


def test_generation_leaves_no_state(adapter: DiffusionGemmaAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = adapter.encode(picture(), PROMPT)
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first = adapter.generate(inputs, Generation(2))
    assert torch.get_rng_state().equal(state)
    assert adapter.generate(inputs, Generation(2)).tokens.equal(first.tokens)
    decoder = adapter.model.model.decoder

    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(decoder.layers[1], "forward", fail)
    with pytest.raises(KeyboardInterrupt):
        adapter.generate(inputs, Generation(2))
    assert not decoder._forward_pre_hooks
    assert not decoder.self_conditioning._forward_pre_hooks


def test_unsupported_requests(adapter: DiffusionGemmaAdapter) -> None:
    inputs = adapter.encode(picture(), PROMPT)
    with pytest.raises(AdapterError, match="block_length must be 12"):
        adapter.generate(inputs, Generation(2, 4))
    with pytest.raises(AdapterError, match="block_length must be 12"):
        adapter.denoise(inputs, Generation(2, 4))
    with pytest.raises(AdapterError, match=r"temperature must be above 0 for .*, which draws its tokens, got 0"):
        adapter.denoise(inputs, Generation(2, temperature=0))
    with pytest.raises(AdapterError, match="one image token"):
        adapter.encode(picture(), "what is <image>")


@pytest.mark.parametrize("window", [64, 16])
def test_attention_rollout(window: int) -> None:
    """Two stacks, grouped heads, and windows shorter than the prompt: what the image has of a word is a share."""
    explanation = Explainer(gemma.make_adapter(window)).explain(
        picture(), PROMPT, "all", method="attention_rollout", generation=Generation(steps=STEPS)
    )
    assert len(explanation.raw_maps) == len(explanation.targets) > 0
    total = explanation.raw_maps.sum((1, 2))
    assert bool(((total > 0) & (total < 1)).all())


# ---------------------------------------------------------------------------------------------------------- streaming


def hooks_of(adapter: DiffusionGemmaAdapter) -> int:
    decoder = adapter.model.model.decoder
    return len(decoder._forward_pre_hooks) + len(decoder.self_conditioning._forward_pre_hooks)


def test_denoise_equals_generate(adapter: DiffusionGemmaAdapter) -> None:
    """Also where others draw random numbers in between, whose own go on as if nothing had been."""
    inputs = adapter.encode(picture(), PROMPT)
    finished = adapter.generate(inputs, Generation(STEPS))
    torch.manual_seed(3)
    own = [torch.rand(2) for _ in range(STEPS)]
    torch.manual_seed(3)
    so_far = []
    for index, trajectory in enumerate(adapter.denoise(inputs, Generation(STEPS))):
        so_far.append(trajectory)
        assert torch.rand(2).equal(own[index])
    length = adapter.config.canvas_length
    assert len(so_far) == len(finished.canvases)
    assert so_far[-1].tokens.equal(finished.tokens)
    assert so_far[-1].steps.equal(finished.steps)
    assert so_far[-1].length == finished.length
    for index, trajectory in enumerate(so_far):
        assert trajectory.canvases[:, :length].equal(finished.canvases[: index + 1, :length])
        committed = trajectory.steps != OPEN
        assert (trajectory.steps[committed] <= index).all()
        # what the next canvas holds is what was accepted
        if index + 1 < len(so_far):
            assert committed.equal(finished.canvases[index + 1, :length] == trajectory.tokens)
    assert not hooks_of(adapter)


def test_a_stream_ends_as_the_explanation(adapter: DiffusionGemmaAdapter) -> None:
    explainer = Explainer(adapter)
    stream = explainer.stream(picture(), PROMPT, generation=Generation(steps=STEPS))
    steps = list(stream)
    streamed = stream.explanation("all")
    plain = explainer.explain(
        picture(), PROMPT, "all", method=GradientCAM(state="committed"), generation=Generation(steps=STEPS)
    )
    assert streamed.tokens == plain.tokens
    torch.testing.assert_close(streamed.raw_maps, plain.raw_maps, rtol=0, atol=1e-5)
    last = {token.position: token for step in steps for token in step.tokens}
    assert {position: last[position] for position in range(len(plain.tokens))} == dict(enumerate(plain.tokens))


@pytest.mark.parametrize("end", ["close", "drop", "error"])
def test_a_closed_stream_leaves_no_state(
    adapter: DiffusionGemmaAdapter, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = threading.active_count()
    stream = Explainer(adapter).stream(picture(), PROMPT, generation=Generation(steps=STEPS))
    next(stream)
    assert threading.active_count() == threads + 1
    assert hooks_of(adapter)
    if end == "close":
        stream.close()
    elif end == "error":

        def fail(*_args: Any, **_kwargs: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(adapter.model.model.decoder.layers[1], "forward", fail)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    del stream
    gc.collect()
    assert threading.active_count() == threads
    assert not hooks_of(adapter)
    assert not adapter._conditioning


def test_two_streams_at_once(adapter: DiffusionGemmaAdapter) -> None:
    inputs = [adapter.encode(picture(seed=seed), PROMPT) for seed in (0, 1)]
    alone = [adapter.generate(item, Generation(STEPS)).tokens for item in inputs]
    pairs = list(zip(*(adapter.denoise(item, Generation(STEPS)) for item in inputs), strict=True))
    assert [trajectory.tokens.tolist() for trajectory in pairs[-1]] == [tokens.tolist() for tokens in alone]
