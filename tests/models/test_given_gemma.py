"""Given answers of DiffusionGemma: masked by the noise that its generation began from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dcam_fast import Explainer, Generation, GivenAnswer, GradientCAM
from dcam_fast.models.diffusion_gemma.adapter import DiffusionGemmaAdapter

gemma = pytest.importorskip("gemma", reason="this transformers is older than DiffusionGemma")

IMAGE = np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8)
PROMPT = "what is this"


@pytest.mark.parametrize("seed", [0, 7])
def test_the_noise_is_that_of_the_generation(adapter: DiffusionGemmaAdapter, seed: int) -> None:
    generation = Generation(steps=2, seed=seed)
    before = torch.get_rng_state()
    finished = adapter.generate(adapter.encode(IMAGE, PROMPT), generation)
    given = adapter.given(finished.tokens.tolist(), None, generation)
    assert torch.get_rng_state().equal(before)
    assert finished.canvases is not None
    assert given.canvases is not None
    assert given.canvases.equal(finished.canvases[:1])
    assert given.length == finished.length


@pytest.mark.parametrize("state", ["remask", "first", "final"])
def test_a_given_answer_has_the_maps_of_the_generated_one(adapter: DiffusionGemmaAdapter, state: Any) -> None:
    explainer, generation = Explainer(adapter), Generation(steps=4, seed=3)
    options: dict[str, Any] = {"method": GradientCAM(state=state), "generation": generation}
    finished = adapter.generate(adapter.encode(IMAGE, PROMPT), generation)
    expected = explainer.explain(IMAGE, PROMPT, "all", **options)
    steps = finished.steps
    assert steps is not None
    tokens = tuple(finished.tokens.tolist())
    for answer in (finished, finished.tokens, tokens, GivenAnswer(tokens, tuple(steps.tolist()))):
        got = explainer.explain(IMAGE, PROMPT, "all", answer=answer, **options)
        assert got.answer == expected.answer
        assert got.targets == expected.targets
        assert got.maps.equal(expected.maps)
        assert got.raw_maps.equal(expected.raw_maps)


def test_steps_do_not_determine_the_canvases(adapter: DiffusionGemmaAdapter) -> None:
    explainer, method, generation = Explainer(adapter), GradientCAM(state="committed"), Generation(steps=4)
    finished = adapter.generate(adapter.encode(IMAGE, PROMPT), generation)
    expected = explainer.explain(IMAGE, PROMPT, "all", method=method, generation=generation)
    got = explainer.explain(IMAGE, PROMPT, "all", answer=finished, method=method)
    assert got.raw_maps.equal(expected.raw_maps)
    length = gemma.CANVAS
    with pytest.raises(ValueError, match=r"got 'committed', .*: a Trajectory with the canvases of this model"):
        explainer.explain(IMAGE, PROMPT, answer=GivenAnswer((8,) * length, (1,) * length), method=method)


def test_a_text_is_completed(adapter: DiffusionGemmaAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter.model.generation_config, "eos_token_id", gemma.VOCABULARY.index("<eos>"))
    explanation = Explainer(adapter).explain(IMAGE, PROMPT, "all", answer="what is")
    assert explanation.answer == "what is"
    ids = [gemma.VOCABULARY.index(word) for word in ("what", "is")]
    assert [token.id for token in explanation.tokens] == ids
    form = adapter.answer_format
    assert form.end in form.end_tokens
    rest = [form.end, *[form.padding] * (gemma.CANVAS - 3)]
    assert adapter.given(ids).tokens.tolist() == [*ids, *rest]


def test_the_end_is_that_of_the_chat_template(adapter: DiffusionGemmaAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    eos, turn = gemma.VOCABULARY.index("<eos>"), gemma.VOCABULARY.index(".")
    monkeypatch.setattr(adapter.model.generation_config, "eos_token_id", [eos, turn])
    assert adapter.answer_format.end == eos  # the template ends no turn
    ended = "{% for m in messages %}{{ m.role }} . {% endfor %}"
    monkeypatch.setattr(adapter.tokenizer, "chat_template", ended)
    assert adapter.answer_format.end == turn
    monkeypatch.setattr(adapter.model.generation_config, "eos_token_id", None)
    with pytest.raises(ValueError, match=f"answer must be all {gemma.CANVAS} tokens for a model without an end token"):
        adapter.given([turn])
