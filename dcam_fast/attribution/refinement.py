"""Refinement of the raw maps of one image."""

from __future__ import annotations

from torch import Tensor

from dcam_fast import ops
from dcam_fast.config import RefineConfig
from dcam_fast.models.adapter import Inputs
from dcam_fast.ops.cuda_graphs import GraphCache


def refined(
    raw: Tensor, config: RefineConfig, inputs: Inputs, answer: Tensor, graphs: GraphCache | None = None
) -> Tensor:
    """Refined maps float32 `[T, h, w]` in 0..1.

    Args:
        raw: float32 `[T, h, w]`, raw maps over the first view of the image.
        config: how to refine them.
        inputs: the encoded image.
        answer: int64 `[n]`, the tokens of the answer as far as they are known.
        graphs: CUDA graphs to reuse for further calls of the same shape. None: no graphs.
    """
    refine = ops.refine if graphs is None or not graphs.serves(raw) else graphs.refine
    return refine(
        raw,
        config,
        repetition=ops.repetition_ratio(answer),
        image_side=inputs.side,
        guide=inputs.colors if config.needs_guide else None,
    )
