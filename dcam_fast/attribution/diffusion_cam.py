"""Diffusion-CAM (arXiv 2604.11005): raw maps of answer positions from one block's, or several blocks', hidden
states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dcam_fast import ops
from dcam_fast.attribution.engine import Targets, capture
from dcam_fast.attribution.objectives import Objective
from dcam_fast.attribution.states import State, canvases
from dcam_fast.config import DEFAULT, RELEASED, RefineConfig
from dcam_fast.models.adapter import Adapter, ImageView, Inputs, Trajectory

CHUNK = 16  # targets that share one forward and one backward pass: bounds memory, and more is no faster on a CPU


@dataclass(frozen=True)
class Method:
    """How a map is made.

    Attributes:
        objective: the scalar that is differentiated (`attribution.objectives`).
        state: the answer state it is evaluated at (`attribution.states`).
        aggregation: how activations and gradients become one number per cell (`ops.pool`).
        blocks: the blocks whose maps are averaged, ascending; None: the adapter's choice.
        profile: how the raw map is refined unless the caller says otherwise.
    """

    objective: Objective = "logprob"
    state: State = "remask"
    aggregation: str = "layercam"
    blocks: tuple[int, ...] | None = None
    profile: RefineConfig = DEFAULT


METHODS = {
    "default": Method(),
    "published": Method(objective="contrast_sum", state="final", aggregation="pooled", blocks=(0,), profile=RELEASED),
}


def method_named(method: str | Method) -> Method:
    """The method itself, or the one of that name; ValueError for a name there is none of."""
    if isinstance(method, Method):
        return method
    if method not in METHODS:
        raise ValueError(f"explain: method must be one of {', '.join(METHODS)} or a Method, got {method!r}")
    return METHODS[method]


def build_targets(trajectory: Trajectory, positions: Tensor, state: State, mask_token: int) -> Targets:
    """Targets at ``positions``, int64 ``[T]``. The distractor of each is the first other position of the answer."""
    distractors = torch.where(positions == 0, min(1, trajectory.length - 1), 0)
    return Targets(
        canvases=canvases(trajectory, positions, state, mask_token),
        positions=positions,
        distractors=distractors,
        tokens=trajectory.tokens[positions],
    )


def raw_maps(adapter: Adapter[Any], inputs: Inputs, targets: Targets, method: Method, view: ImageView) -> Tensor:
    """Raw maps float32 ``[T, h, w]`` in 0..1 of ``targets`` over one view of the image."""
    h, w = view.cells.shape
    blocks = adapter.default_blocks if method.blocks is None else method.blocks
    maps = [view.boxes.new_zeros(0, h * w)]
    for chunk in targets.chunks(CHUNK):
        captured = capture(adapter, inputs, chunk, blocks, method.objective)
        activations, gradients = [c.activations for c in captured], [c.gradients for c in captured]
        maps.append(ops.pool(activations, gradients, view.cells.flatten(), method.aggregation))
    return torch.cat(maps).view(-1, h, w)
