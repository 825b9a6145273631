"""The answer state at which a target is explained: which tokens of the canvas are still masked."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from dcam_fast.models.adapter import AdapterError, Trajectory

StateName = Literal["committed", "remask", "first", "final"]
State = StateName | int


def canvases(trajectory: Trajectory, positions: Tensor, state: State, mask_token: int) -> Tensor:
    """One canvas per target, ``int64[T, L]``, for target ``positions``, ``int64[T]``.

    ``"committed"``: as the model saw it just before it wrote the target. ``"remask"``: the finished answer with only
    the target masked. ``"first"``: all masked. ``"final"``: the finished answer. An integer: as the model saw it at
    that step.

    Raises:
        AdapterError: for a step that generation never ran.
    """
    answer = trajectory.tokens.expand(len(positions), -1)
    steps = trajectory.steps
    match state:
        case "committed":
            masked = steps[None] >= steps[positions][:, None]
        case "remask":
            masked = torch.arange(len(steps), device=steps.device)[None] == positions[:, None]
        case "first":
            masked = torch.ones_like(answer, dtype=torch.bool)
        case "final":
            masked = torch.zeros_like(answer, dtype=torch.bool)
        case int():
            last = int(steps.max())
            if not 0 <= state <= last:
                raise AdapterError(f"attribute: step must be 0 to {last}, the steps that generation ran, got {state}")
            masked = (steps >= state).expand_as(answer)
        case _:
            raise ValueError(
                f"attribute: state must be a step or one of {', '.join(get_args(StateName))}, got {state!r}"
            )
    return torch.where(masked, mask_token, answer)
