"""Answers of LaViDa and LLaDA-V in which masks are left, because the mask was the best guess there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checks
import pytest
import torch
from checks import PROMPT
from llava_stubs import make_model, package
from llava_subjects import LENGTH, LavidaSubject, LladavSubject

from dcam_fast import Explainer, Explanation, Generation, GradientCAM
from dcam_fast.models.adapter import OPEN

IMAGE = checks.picture(120, 200)
SOME_STEPS = Generation(4, LENGTH)


@pytest.fixture(scope="module", params=["lavida, prefix", "lavida, joint", "lladav, joint"])
def subject(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A model whose answer has both masks and tokens: the mask is more likely than one of the tokens it used to write,
    wherever that is likely."""
    family, attention = request.param.split(", ")
    with package(family):
        model = make_model(family)
        subject: Any = LladavSubject(model) if family == "lladav" else LavidaSubject(model, attention)
        adapter = subject.adapter
        inputs = adapter.encode(IMAGE, PROMPT)
        head = model.lm_head if family == "lladav" else model.get_model().transformer.ff_out
        for token in adapter.generate(inputs, SOME_STEPS).tokens.unique().tolist():
            with torch.no_grad():
                head.weight[adapter.mask_token] = 1.01 * head.weight[token]
            if 0 < int((adapter.generate(inputs, SOME_STEPS).steps == OPEN).sum()) < LENGTH:
                break
        yield subject


def test_the_official_code_leaves_them_too(subject: Any) -> None:
    checks.check_generation(subject, IMAGE, SOME_STEPS)


def test_they_are_no_words(subject: Any, tmp_path: Path) -> None:
    adapter = subject.adapter
    explainer = Explainer(adapter)
    trajectory = adapter.generate(adapter.encode(IMAGE, PROMPT), SOME_STEPS)
    left = {position for position, step in enumerate(trajectory.steps.tolist()) if step == OPEN}
    assert 0 < len(left) < LENGTH
    stream = explainer.stream(IMAGE, PROMPT, generation=SOME_STEPS)
    *_, last = stream
    assert {position for position, text in enumerate(last.canvas) if text is None} == left
    options: dict[str, Any] = {"generation": SOME_STEPS, "method": GradientCAM(state="committed")}
    streamed, generated = stream.explanation("all"), explainer.explain(IMAGE, PROMPT, "all", **options)
    generated.save(tmp_path)
    for explanation in (streamed, generated, Explanation.load(tmp_path)):
        written = {position for target in explanation.targets for position in target.positions}
        assert written
        assert written.isdisjoint(left)
        assert {token.position for token in explanation.tokens if token.step is None} == left
        assert "".join(piece.text for piece in explanation.pieces()) == explanation.answer
        assert explanation.names == streamed.names


def test_they_are_no_targets(subject: Any) -> None:
    adapter = subject.adapter
    explainer = Explainer(adapter)
    trajectory = adapter.generate(adapter.encode(IMAGE, PROMPT), SOME_STEPS)
    position = int((trajectory.steps == OPEN).nonzero()[0])
    message = f"target must be a position with a token, got {position}, which is masked"
    with pytest.raises(ValueError, match=f"explain: {message}"):
        explainer.explain(IMAGE, PROMPT, [position], generation=SOME_STEPS)
    with pytest.raises(ValueError, match="answer must be finished, got the mask token"):
        explainer.explain(IMAGE, PROMPT, answer=trajectory)
    stream = explainer.stream(IMAGE, PROMPT, generation=SOME_STEPS)
    assert len(list(stream)) > 0
    with pytest.raises(ValueError, match=rf"Stream\.explanation: {message}"):
        stream.explanation([position])
