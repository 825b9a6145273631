"""Synthetic scenes: images with captions, questions and one ground-truth mask for each object."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dcam_fast.scenes.drawing import (
    CANVAS,
    CAPTION_PROMPT,
    COLORS,
    NUMBERS,
    QUESTIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    Dialogue,
    Scene,
    caption,
    question,
    sample_scene,
)

__all__ = [
    "CANVAS",
    "CAPTION_PROMPT",
    "COLORS",
    "DEMO_SEED",
    "NUMBERS",
    "QUESTIONS",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "Dialogue",
    "Scene",
    "caption",
    "question",
    "sample_image",
    "sample_scene",
]

DEMO_SEED = 7  # the default seed of the commands


def sample_image() -> NDArray[np.uint8]:
    """A scene that the embedded model can caption, uint8 `[128, 128, 3]`: the first of `dcam-fast scenes`.

    Example:
        >>> from dcam_fast import sample_image
        >>> sample_image().shape
        (128, 128, 3)
    """
    return sample_scene(np.random.default_rng(DEMO_SEED)).image
