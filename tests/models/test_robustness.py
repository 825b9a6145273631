"""DiffusionGemma where several things go on at once, where a checkpoint's own settings interfere, and where a method or
a file does not fit."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemma
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcam_fast import Cancelled, Explainer, models
from dcam_fast.evaluation.randomization import randomized_from_top
from dcam_fast.models import AdapterError
from dcam_fast.models.diffusion_gemma.adapter import DiffusionGemmaAdapter
from dcam_fast.models.diffusion_gemma.generation import DiffusionGemmaTrajectory, RandomNumbers
from dcam_fast.models.generation import Generation

PROMPT = "what is this"


def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)


def in_threads(*calls: Callable[[], None]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_two_adapters_in_two_threads() -> None:
    adapters = gemma.make_adapter(), gemma.make_adapter()
    inputs = adapters[0].encode(picture(), PROMPT)
    alone = adapters[0].generate(inputs, Generation(20)).canvases
    assert alone is not None
    got: list[Tensor | None] = []
    in_threads(*[lambda item=item: got.append(item.generate(inputs, Generation(20)).canvases) for item in adapters])
    assert len(got) == 2
    for canvases in got:
        assert canvases is not None
        assert canvases[:, :-1].equal(alone[:, :-1])


@pytest.mark.parametrize("streamed", [False, True])
def test_an_interrupted_generation_leaves_no_state(
    adapter: DiffusionGemmaAdapter, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel, finished = threading.Event(), []
    forward = adapter.model.forward

    def counted(**kwargs: Any) -> Any:
        out = forward(**kwargs)
        finished.append(None)
        if len(finished) == 3:
            cancel.set()
        return out

    explainer, threads, drawn = Explainer(adapter), threading.active_count(), torch.get_rng_state()
    with monkeypatch.context() as patch:
        patch.setattr(adapter.model, "forward", counted)
        call = explainer.stream if streamed else explainer.explain
        with pytest.raises(Cancelled):
            list(call(picture(), PROMPT, generation=Generation(20), cancel=cancel))  # type: ignore[operator]
    assert len(finished) == 3
    assert threading.active_count() == threads
    assert torch.get_rng_state().equal(drawn)
    decoder = adapter.model.model.decoder
    assert not decoder._forward_pre_hooks
    assert not decoder.self_conditioning._forward_pre_hooks
    assert explainer.explain(picture(), PROMPT, [0], generation=Generation(2)).tokens


def test_waiting_for_another_generation_can_be_cancelled(adapter: DiffusionGemmaAdapter) -> None:
    cancel, errors = threading.Event(), []

    def explain() -> None:
        with pytest.raises(Cancelled) as raised:
            Explainer(adapter).explain(picture(), PROMPT, generation=Generation(2), cancel=cancel)
        errors.append(raised.value)

    with RandomNumbers(0, torch.device("cpu")).drawn():  # as another generation does
        waiting = threading.Thread(target=explain)
        waiting.start()
        cancel.set()
        waiting.join()
    assert errors


def test_a_replay_during_generation_is_not_recorded(
    adapter: DiffusionGemmaAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = adapter.encode(picture(), PROMPT)
    alone = adapter.generate(inputs, Generation(4))
    assert isinstance(alone, DiffusionGemmaTrajectory)
    assert alone.canvases is not None
    other, here = alone.canvases[2:3], threading.current_thread()
    embedding = adapter.model.model.decoder.embed_tokens
    forward, calls = embedding.forward, []

    def interrupted(tokens: Tensor) -> Any:
        if threading.current_thread() is here:
            calls.append(None)
            if len(calls) > 1:
                in_threads(lambda: calls.append(adapter.embed(inputs, other)))
        return forward(tokens)

    monkeypatch.setattr(embedding, "forward", interrupted)
    again = adapter.generate(inputs, Generation(4))
    assert len(calls) == 4 + 3
    assert isinstance(again, DiffusionGemmaTrajectory)
    for got, expected in zip(again.conditioning[1:], alone.conditioning[1:], strict=True):
        assert got is not None
        assert expected is not None
        assert got.equal(expected)


def test_one_canvas_for_any_length_in_the_checkpoint() -> None:
    model = gemma.make_model()
    model.config.canvas_length = 256  # the default number of new tokens, which a maximal length takes precedence over
    model.generation_config.max_length = 700
    adapter = DiffusionGemmaAdapter(model, gemma.make_tokenizer(), gemma.make_processor(), name="long")
    trajectory = adapter.generate(adapter.encode(picture(), PROMPT), Generation(2))
    assert trajectory.canvases is not None
    assert trajectory.canvases.shape == (2, 257)


def test_layers_can_be_randomized_in_a_copy() -> None:
    adapter = gemma.make_adapter()
    inputs = adapter.encode(picture(), PROMPT)
    before = adapter.generate(inputs, Generation(3)).tokens
    indices, answers = zip(
        *[(i, copy.generate(inputs, Generation(3)).tokens) for i, copy in randomized_from_top(adapter)], strict=True
    )
    assert indices == tuple(reversed(range(adapter.num_layers)))
    assert not any(answer.equal(before) for answer in answers)
    assert adapter.generate(inputs, Generation(3)).tokens.equal(before)


def test_methods_that_need_image_logits_raise(adapter: DiffusionGemmaAdapter) -> None:
    with pytest.raises(AdapterError, match=r"image_logits: .* got tiny-gemma"):
        Explainer(adapter).explain(picture(), PROMPT, "all", method="tam", generation=Generation(steps=2))


@pytest.mark.parametrize(
    "weights", [[], {"weight_map": []}, {"weight_map": {"a": 3}}, {"weight_map": {"a": ["b"]}}, {}]
)
def test_invalid_index(tmp_path: Path, weights: object) -> None:
    gemma.save(tmp_path, max_shard_size="100KB")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(weights))
    with pytest.raises(AdapterError, match="must be an index of shards"):
        models.load(str(tmp_path))


@pytest.mark.parametrize("text", [[], {"hidden_size": "big"}, None])
def test_invalid_configuration(tmp_path: Path, text: object) -> None:
    gemma.save(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"text_config": text}))
    with pytest.raises(AdapterError, match="must be a checkpoint that transformers can load"):
        models.load(str(tmp_path))
