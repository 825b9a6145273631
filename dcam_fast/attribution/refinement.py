"""Raw maps of one image, refined."""

from __future__ import annotations

from torch import Tensor

from dcam_fast import ops
from dcam_fast.config import RefineConfig
from dcam_fast.models.adapter import Inputs
from dcam_fast.ops.cuda_graphs import GraphCache


def refined(
    raw: Tensor, config: RefineConfig, inputs: Inputs, answer: Tensor, graphs: GraphCache | None = None
) -> Tensor:
    """Raw maps float32 ``[T, h, w]`` over the first view, refined as ``config`` says.

    Args:
        inputs: the image whose maps they are.
        answer: int64 ``[n]``, its tokens as far as they are known.
        graphs: of earlier calls, where there will be more of the kind.
    """
    refine = ops.refine if graphs is None or not graphs.serves(raw) else graphs.refine
    return refine(
        raw,
        config,
        repetition=ops.repetition_ratio(answer),
        image_side=inputs.side,
        guide=inputs.colors if config.needs_guide else None,
    )
