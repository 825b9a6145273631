"""A whole explanation of a scene with the embedded model, beside the generation that it explains."""

from __future__ import annotations

from typing import Any

import numpy as np

from dcam_fast import Explainer
from dcam_fast.models.tiny import scenes

SCENE = scenes.sample_scene(np.random.default_rng(12), objects=3)


def test_generation(benchmark: Any) -> None:
    adapter = Explainer.from_pretrained("tiny").adapter
    inputs = adapter.encode(SCENE.image, scenes.CAPTION_PROMPT)
    benchmark.group = "whole explanation, 3 objects, 11 content words"
    benchmark.extra_info["label"] = "generation alone"
    benchmark.pedantic(adapter.generate, (inputs,), rounds=20, warmup_rounds=3)


def test_generation_and_explanation(benchmark: Any) -> None:
    explainer = Explainer.from_pretrained("tiny")
    benchmark.group = "whole explanation, 3 objects, 11 content words"
    benchmark.extra_info["label"] = "generation and explanation"
    explanation = benchmark.pedantic(explainer.explain, (SCENE.image,), rounds=20, warmup_rounds=3)
    assert len(explanation.targets) == 11
