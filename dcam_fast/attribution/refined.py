"""Raw maps of one image, refined."""

from __future__ import annotations

from torch import Tensor

from dcam_fast import ops
from dcam_fast.config import RefineConfig
from dcam_fast.models.adapter import Inputs


def refined(raw: Tensor, config: RefineConfig, inputs: Inputs, answer: Tensor) -> Tensor:
    """Raw maps float32 ``[T, h, w]`` over the first view, refined as ``config`` says.

    Args:
        inputs: the image whose maps they are.
        answer: int64 ``[n]``, its tokens as far as they are known.
    """
    return ops.refine(
        raw,
        config,
        repetition=ops.repetition_ratio(answer),
        image_side=inputs.side,
        guide=inputs.colors if config.needs_guide else None,
    )
