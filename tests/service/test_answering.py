"""Answers of the model without explanations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import needs_serve  # noqa: F401 - skips without the packages of the service
import pytest

from dcam_fast import Explainer, sample_image
from dcam_fast.models.adapter import OPEN, Trajectory
from dcam_fast.service import answering


def test_a_mask_that_is_left_does_not_cut_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = Explainer.from_pretrained("tiny")
    adapter = explainer.adapter
    request = answering.ExplanationRequest(sample_image())
    finished = adapter.generate(explainer.encode(request.image), request.generation)
    tokens, steps = finished.tokens.clone(), finished.known_steps("committed").clone()
    tokens[2], steps[2] = adapter.mask_token, OPEN
    monkeypatch.setattr(adapter, "denoise", lambda *_: iter([Trajectory(tokens, steps, finished.length)]))
    emitted: list[Any] = []
    written = answering.answer(explainer, request, SimpleNamespace(emit=emitted.append))  # type: ignore[arg-type]
    assert [part.text for part in emitted] == [adapter.decode(tokens[:2])]
    assert written.text == adapter.decode(tokens[: finished.length])
    assert written.length == finished.length
