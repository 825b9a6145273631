"""Answers that another engine wrote: the same maps and scores as of the generated answer, and clear errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dcam_fast import Contrast, Explainer, Explanation, Generation, GivenAnswer, GradientCAM, sample_image
from dcam_fast.attribution.answer_states import canvases
from dcam_fast.models.adapter import AdapterError, Trajectory
from dcam_fast.models.given import AnswerFormat
from dcam_fast.models.tiny.processing import EOS, MASK, VOCABULARY

GENERATION = Generation(steps=12)
STATES = ("remask", "committed", "first", "final", 3)
RED, RING = VOCABULARY.index("red"), VOCABULARY.index("ring")


@pytest.fixture(scope="module", params=["prefix", "joint"])
def explainer(request: pytest.FixtureRequest) -> Explainer:
    return Explainer.from_pretrained("tiny", attention=request.param)


@pytest.fixture(scope="module")
def tiny() -> Explainer:
    return Explainer.from_pretrained("tiny")


def generated(explainer: Explainer) -> Trajectory:
    adapter = explainer.adapter
    return adapter.generate(adapter.encode(sample_image(), adapter.default_prompt), GENERATION)


def forms(explainer: Explainer, with_steps: bool) -> dict[str, Any]:
    """The generated answer in every form that can be given."""
    finished = generated(explainer)
    assert finished.steps is not None
    tokens, steps = finished.tokens.tolist(), tuple(finished.steps.tolist())
    known = {"trajectory": finished, "tokens and steps": GivenAnswer(tuple(tokens), steps)}
    if with_steps:
        return known
    text = tokens[: finished.length]
    return known | {
        "text": explainer.adapter.decode(finished.tokens[: finished.length]),
        "ids of the text": text,
        "ids with the end token": [*text, EOS],
        "ids of the canvas": tokens,
        "array": np.array(text),
        "tensor": finished.tokens,
        "given": GivenAnswer(tuple(text)),
        "trajectory without steps": replace(finished, steps=None),
    }


def check_same(got: Explanation, expected: Explanation) -> None:
    assert got.answer == expected.answer
    assert got.targets == expected.targets  # with their scores
    assert got.maps.equal(expected.maps)
    assert got.raw_maps.equal(expected.raw_maps)


@pytest.mark.parametrize("state", STATES)
def test_a_given_answer_has_the_maps_of_the_generated_one(explainer: Explainer, state: Any) -> None:
    method = GradientCAM(state=state)
    expected = explainer.explain(sample_image(), None, "all", method=method, generation=GENERATION)
    assert expected.provenance["answer"] == "generated"
    for name, answer in forms(explainer, state in ("committed", 3)).items():
        got = explainer.explain(sample_image(), None, "all", answer=answer, method=method)
        check_same(got, expected)
        assert got.provenance["answer"] == "given"
        has_steps = name in ("trajectory", "tokens and steps")
        assert [t.step for t in got.tokens] == [t.step if has_steps else None for t in expected.tokens]


def test_nothing_is_generated(tiny: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> None:
        raise AssertionError("generated")

    monkeypatch.setattr(tiny.adapter, "generate", fail)
    monkeypatch.setattr(tiny.adapter, "denoise", fail)
    assert tiny.explain(sample_image(), answer="a red ring").answer == "a red ring"


@pytest.mark.parametrize("method", ["default", "tam", "llava_cam"])
@pytest.mark.parametrize("tokens", [[], [RED], [EOS], [RED, RING, EOS, EOS]])
def test_short_answers(explainer: Explainer, tokens: list[int], method: str) -> None:
    text = [token for token in tokens if token != EOS]
    explanation = explainer.explain(sample_image(), None, "all", answer=tokens, method=method)
    assert [token.id for token in explanation.tokens] == text
    assert len(explanation.maps) == len(text)
    assert bool(explanation.maps.isfinite().all())
    assert explainer.adapter.given(tokens).tokens[len(text) :].eq(EOS).all()


def test_an_answer_that_fills_the_canvas(explainer: Explainer) -> None:
    length = explainer.adapter.answer_format.length
    explanation = explainer.explain(sample_image(), None, [0, length - 1], answer=[RED] * length)
    assert len(explanation.tokens) == length
    assert explainer.adapter.given([RED] * length).length == length


def test_tokens_after_the_end_of_a_whole_canvas_stay(tiny: Explainer) -> None:
    length = tiny.adapter.answer_format.length
    canvas = [RED, EOS, RING, MASK, *[EOS] * (length - 4)]
    trajectory = tiny.adapter.given(canvas)
    assert trajectory.tokens.tolist() == canvas
    assert trajectory.length == 1


LENGTH = 36
TOO_MANY = [RED] * (LENGTH + 1)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (TOO_MANY, ValueError, f"explain: answer must be at most {LENGTH} tokens, got {LENGTH + 1}"),
        ([RED, len(VOCABULARY)], ValueError, f"from 0 to {len(VOCABULARY) - 1}, got {len(VOCABULARY)} at position 1"),
        ([-1], ValueError, "got -1 at position 0"),
        ([RED, MASK, RING], ValueError, f"must be finished, got the mask token {MASK} in its text, at position 1"),
        ([RED, EOS, RING], ValueError, f"got token {RING} at position 2, after the end token at position 1"),
        ([RED, EOS, MASK], ValueError, "only padding after its end token"),
        ("a Red ring", ValueError, "got 'a Red ring', which its tokenizer turns into 'a red ring'"),
        ("a zebra", ValueError, "got 'a zebra', which its tokenizer turns into 'a <unk>'"),
        ("le café 🐶", ValueError, "which its tokenizer turns into"),
        ([1.5], TypeError, "explain: answer must be a sequence of integers, got one with 1.5"),
        ([True], TypeError, "got one with True"),
        ([torch.tensor(1.5)], TypeError, "explain: answer must be a sequence of integers, got one with tensor"),
        ([np.ones(2, int)], TypeError, "explain: answer must be a sequence of integers, got one with array"),
        ("a \ud800", ValueError, "explain: answer must be text without lone surrogates, got "),
        (torch.zeros(2, 3, dtype=torch.int64), TypeError, "got one with"),
        (
            b"red",
            TypeError,
            "explain: answer must be a str, token ids, a GivenAnswer, a Trajectory or None, got b'red'",
        ),
        ({RED: 1}, TypeError, "explain: answer must be a str"),
        (3, TypeError, "explain: answer must be a str"),
    ],
)
def test_what_is_not_an_answer(
    tiny: Explainer, answer: Any, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise AssertionError("the image was encoded first")

    monkeypatch.setattr(tiny.adapter, "encode", fail)
    with pytest.raises(error, match=message):
        tiny.explain(sample_image(), answer=answer)


@pytest.mark.parametrize(
    ("tokens", "steps", "error", "message"),
    [
        ([1, 2], [0], ValueError, "GivenAnswer: steps must be as many as the tokens, 2, or None, got 1"),
        ([1, 2], [0, -1], ValueError, r"GivenAnswer: steps must be from 0 to 2\*\*63 - 1, got -1"),
        ("red", None, TypeError, "GivenAnswer: tokens must be a sequence of integers, got 'red'"),
        ([1], "0", TypeError, "GivenAnswer: steps must be a sequence of integers, got '0'"),
    ],
)
def test_what_is_not_a_given_answer(tokens: Any, steps: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GivenAnswer(tokens, steps)


@pytest.mark.parametrize("state", ["committed", 0, 3])
def test_states_that_need_steps(tiny: Explainer, state: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(type(tiny.adapter), "encode")  # the error comes before any work
    with pytest.raises(
        ValueError, match=r"'final' for an answer whose steps are unknown, got .*GivenAnswer\(tokens, st"
    ):
        tiny.explain(sample_image(), answer="a red ring", method=GradientCAM(state=state))


def test_an_unknown_target_of_a_given_answer_is_found_before_any_work(
    tiny: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(type(tiny.adapter), "encode")
    with pytest.raises(ValueError, match=r"target must be words of the answer \(a red ring\), got 'dog'"):
        tiny.explain(sample_image(), None, ["dog"], answer="a red ring")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"tokens": torch.zeros(3, dtype=torch.int64)},
            rf"answer.tokens must be int64 \[{LENGTH}\] on cpu, got .*\[3\]",
        ),
        ({"tokens": torch.zeros(LENGTH)}, "answer.tokens must be int64"),
        ({"tokens": torch.full((LENGTH,), 9999)}, "got 9999 at position 0"),
        ({"steps": torch.zeros(2, dtype=torch.int64)}, "answer.steps must be int64"),
        ({"length": LENGTH + 1}, f"answer.length must be 0 to {LENGTH}, got {LENGTH + 1}"),
        ({"tokens": [RED]}, rf"answer.tokens must be int64 \[{LENGTH}\] on cpu, got list"),
        ({"steps": torch.full((LENGTH,), -1)}, "answer.steps must be from 0, got -1"),
        ({"length": 2.0}, f"answer.length must be 0 to {LENGTH}, got 2.0"),
        ({"length": None}, f"answer.length must be 0 to {LENGTH}, got None"),
        ({"canvases": torch.zeros(1, LENGTH)}, "answer.canvases must be None for this model, got a tensor"),
    ],
)
def test_trajectories_of_another_model(tiny: Explainer, change: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^explain: .*{message}"):
        tiny.explain(sample_image(), answer=replace(generated(tiny), **change))


def test_a_trajectory_must_be_finished(tiny: Explainer) -> None:
    first = next(iter(tiny.adapter.denoise(tiny.encode(sample_image()), Generation(steps=4))))
    for answer in (first, replace(first, steps=None)):
        with pytest.raises(ValueError, match=f"^explain: answer must be finished, got the mask token {MASK} "):
            tiny.explain(sample_image(), answer=answer)


def test_positions_of_an_empty_answer(tiny: Explainer) -> None:
    with pytest.raises(ValueError, match=r"^explain: target must be left out for an empty answer, got 0$"):
        tiny.explain(sample_image(), targets=[0], answer="")


def test_white_space_around_a_text_does_not_matter(tiny: Explainer) -> None:
    assert tiny.explain(sample_image(), answer=" a red ring\n").answer == "a red ring"


def test_a_family_without_an_end_token() -> None:
    form = AnswerFormat(length=3, num_tokens=5, mask_token=0, end_tokens=(), end=None, padding=0)
    assert form.trajectory(GivenAnswer((1, 2, 3)), torch.device("cpu")).length == 3
    with pytest.raises(ValueError, match="answer must be all 3 tokens for a model without an end token, got 2"):
        form.trajectory(GivenAnswer((1, 2)), torch.device("cpu"))


def test_a_family_whose_generation_stops_at_the_end() -> None:
    """The positions after the end stay masked, so the steps of text and end token are all there are."""
    form = AnswerFormat(length=5, num_tokens=9, mask_token=0, end_tokens=(7,), end=7, padding=0)
    cpu = torch.device("cpu")
    finished = form.trajectory(GivenAnswer((1, 2, 7), (1, 0, 2)), cpu)
    assert finished.tokens.tolist() == [1, 2, 7, 0, 0]
    assert canvases(finished, torch.tensor([0, 2]), "committed", 0).tolist() == [[0, 2, 0, 0, 0], [1, 2, 0, 0, 0]]
    with pytest.raises(AdapterError, match="state as a step must be 0 to 2, which generation ran, got 3"):
        canvases(finished, torch.tensor([0]), 3, 0)
    without_end = form.trajectory(GivenAnswer((1, 2), (1, 0)), cpu)
    assert without_end.tokens.tolist() == [1, 2, 7, 0, 0]
    with pytest.raises(ValueError, match="of the whole canvas, end token and padding too"):
        canvases(without_end, torch.tensor([0]), "committed", 0)


def test_families_without_given_answers(tiny: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    from dcam_fast.models.adapter import Adapter

    kind = type(tiny.adapter)
    monkeypatch.setattr(kind, "encode_answer", Adapter.encode_answer)
    with pytest.raises(AdapterError, match="answer must be token ids for a model that encodes no text, got tiny"):
        tiny.explain(sample_image(), answer="a red ring")
    monkeypatch.setattr(kind, "answer_format", Adapter.answer_format)
    with pytest.raises(AdapterError, match="answer must be None for a model that only explains its own, got tiny"):
        tiny.explain(sample_image(), answer=[RED])


def test_an_explanation_without_steps_is_saved_drawn_and_loaded(tiny: Explainer, tmp_path: Path) -> None:
    explanation = tiny.explain(sample_image(), None, "all", answer="a red ring")
    assert explanation.steps("ring") == ()
    loaded = Explanation.load(explanation.save(tmp_path / "saved"))
    assert loaded.tokens == explanation.tokens
    assert {token.step for token in loaded.tokens} == {None}
    assert [piece.text for piece in loaded.pieces() if piece.token] == ["a", "red", "ring"]
    assert loaded.contact_sheet().size == explanation.contact_sheet().size
    assert "ring" in loaded.to_html()


def test_room_in_a_given_answer_is_checked_before_any_work(tiny: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(type(tiny.adapter), "encode")
    with pytest.raises(ValueError, match=r"^Contrast: instead must be at most 34 tokens, .* got 35$"):
        tiny.explain(sample_image(), targets=[Contrast("ring", "red " * 35)], answer="a red ring")
