"""Contrasts of a family without a mask token, whose canvases also have its self-conditioning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dcam_fast.attribution import Answer
from dcam_fast.attribution.contrasts import ContrastedWord
from dcam_fast.attribution.methods.gradient_cam import GradientCAM
from dcam_fast.models.generation import Generation

pytest.importorskip("gemma", reason="this transformers is older than DiffusionGemma")


@pytest.mark.parametrize("state", ["remask", "committed"])
def test_contrasts(adapter: Any, state: Any) -> None:
    """Other words of as many tokens and of fewer."""
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    inputs = adapter.encode(image, "what is this")
    answer = Answer(adapter, inputs, adapter.generate(inputs, Generation(5)))
    others = tuple(token for token in range(20, 40) if token not in answer.tokens.tolist())
    words = [
        ContrastedWord("", (1,), instead="", instead_tokens=others[:1]),
        ContrastedWord("", (1, 2), instead="", instead_tokens=others[:2]),
        ContrastedWord("", (1, 2), instead="", instead_tokens=others[:1]),
    ]
    maps = GradientCAM(state=state).raw_maps(answer, words)
    assert maps.isfinite().all()
    assert (maps.flatten(1).amax(1) > 0).all()
