"""Refinement of the raw maps of one image."""

from __future__ import annotations

from torch import Tensor

from dcam_fast import ops
from dcam_fast.config import RefineConfig
from dcam_fast.models.adapter import Inputs


def refined(raw: Tensor, config: RefineConfig, inputs: Inputs, answer: Tensor) -> Tensor:
    """Refined maps float32 `[T, h, w]` in 0..1.

    Args:
        raw: float32 `[T, h, w]`, raw maps over the first view of the image.
        config: how to refine them.
        inputs: the encoded image.
        answer: int64 `[n]`, the tokens of the answer as far as they are known.
    """
    return ops.refine(
        raw,
        config,
        repetition=ops.repetition_ratio(answer),
        image_side=inputs.side,
        guide=inputs.colors if config.needs_guide else None,
    )
