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
    that step. Where the trajectory has its canvases they are what the model saw, and a position that was never masked
    is made to be by the noise that generation began from; what it knew from a step before counts for that step alone.

    Raises:
        AdapterError: for a step that generation never ran.
    """
    if trajectory.canvases is not None:
        return _recorded(trajectory, trajectory.canvases, positions, state)
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
            _check_step(state, int(steps.max()))
            masked = (steps >= state).expand_as(answer)
        case _:
            raise _unknown(state)
    return torch.where(masked, mask_token, answer)


def _recorded(trajectory: Trajectory, seen: Tensor, positions: Tensor, state: State) -> Tensor:
    length = len(trajectory.tokens)
    match state:
        case "committed":
            return seen[trajectory.steps[positions]]
        case "first":
            return seen[:1].expand(len(positions), -1)
        case "remask" | "final":
            rows = seen.new_zeros(len(positions), seen.shape[1])
            rows[:, :length] = trajectory.tokens
            if state == "remask":
                rows.scatter_(1, positions[:, None], seen[0, positions][:, None])
            return rows
        case int():
            _check_step(state, len(seen) - 1)
            return seen[state].expand(len(positions), -1)
    raise _unknown(state)


def _check_step(step: int, last: int) -> None:
    if not 0 <= step <= last:
        raise AdapterError(f"attribute: step must be 0 to {last}, the steps that generation ran, got {step}")


def _unknown(state: object) -> ValueError:
    return ValueError(f"attribute: state must be a step or one of {', '.join(get_args(StateName))}, got {state!r}")
