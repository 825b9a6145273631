"""The answer state at which a target is explained: which tokens of the canvas are masked."""

from __future__ import annotations

from numbers import Integral
from typing import Literal, get_args

import torch
from torch import Tensor

from dcam_fast.models.adapter import OPEN, AdapterError, Trajectory
from dcam_fast.models.trajectory import unknown_steps

StateName = Literal["committed", "remask", "first", "final"]
State = StateName | int


def canvases(trajectory: Trajectory, positions: Tensor, state: State, mask_token: int) -> Tensor:
    """One canvas for each target.

    A family without a mask token records its canvases. Masking a position then means putting back the noise that
    generation began from.

    Args:
        trajectory: the answer and the denoising step that wrote each token.
        positions: int64 `[T]`, the targets.
        state: `"committed"`: the canvas as the model saw it just before it wrote the target. `"remask"`: the finished
            answer with only the target masked. `"first"`: all positions masked. `"final"`: the finished answer. An
            integer: the canvas as the model saw it at that denoising step.
        mask_token: the model's, or `NO_MASK`.

    Returns:
        int64 `[T, L]`.

    Raises:
        AdapterError: for a step that generation did not run.
        ValueError: for an unknown state, or one that needs steps where they are unknown.
    """
    if trajectory.canvases is not None:
        return _recorded(trajectory, trajectory.canvases, positions, state)
    answer = trajectory.tokens.expand(len(positions), -1)
    match state:
        case "committed":
            steps = _steps(trajectory, state, mask_token)
            masked = steps[None] >= steps[positions][:, None]
        case "remask":
            masked = torch.arange(answer.shape[1], device=answer.device)[None] == positions[:, None]
        case "first":
            masked = torch.ones_like(answer, dtype=torch.bool)
        case "final":
            masked = torch.zeros_like(answer, dtype=torch.bool)
        case int():
            steps = _steps(trajectory, state, mask_token)
            _check_step(state, max((step for step in steps.tolist() if step != OPEN), default=0))
            masked = (steps >= state).expand_as(answer)
        case _:
            raise _unknown(state)
    return torch.where(masked, mask_token, answer)


def check_state(trajectory: Trajectory, state: State, mask_token: int) -> None:
    """Raises as `canvases` for a state that the trajectory does not have."""
    canvases(trajectory, trajectory.tokens.new_zeros(0), state, mask_token)


def checked_state(caller: str, state: object) -> State:
    """An answer state, a name or a step as an int.

    Raises:
        ValueError: naming the caller, for anything else.
    """
    if isinstance(state, Integral) and not isinstance(state, bool) and int(state) >= 0:
        return int(state)
    for name in get_args(StateName):
        if isinstance(state, str) and state == name:
            return name  # type: ignore[no-any-return]
    raise _unknown(state, caller)


def _steps(trajectory: Trajectory, state: State, mask_token: int) -> Tensor:
    """The steps, if those of all positions that generation wrote are known."""
    steps = trajectory.known_steps(state)
    if bool(((steps == OPEN) & (trajectory.tokens != mask_token)).any()):
        raise unknown_steps(state, "GivenAnswer(tokens, steps=...) of the whole canvas, end token and padding too")
    return steps


def _recorded_steps(trajectory: Trajectory, recorded: Tensor, state: State) -> Tensor:
    """The steps, if the canvases of all of them are recorded."""
    steps = trajectory.known_steps(state)
    written = steps[: trajectory.length]
    if max(written[written != OPEN].tolist(), default=0) >= len(recorded):
        raise unknown_steps(state, "a Trajectory with the canvases of this model")
    return steps


def _recorded(trajectory: Trajectory, recorded: Tensor, positions: Tensor, state: State) -> Tensor:
    length = len(trajectory.tokens)
    match state:
        case "committed":
            return recorded[_recorded_steps(trajectory, recorded, state)[positions]]
        case "first":
            return recorded[:1].expand(len(positions), -1)
        case "remask" | "final":
            rows = recorded.new_zeros(len(positions), recorded.shape[1])
            rows[:, :length] = trajectory.tokens
            if state == "remask":
                rows.scatter_(1, positions[:, None], recorded[0, positions][:, None])
            return rows
        case int():
            _recorded_steps(trajectory, recorded, state)
            _check_step(state, len(recorded) - 1)
            return recorded[state].expand(len(positions), -1)
    raise _unknown(state)


def _check_step(step: int, last: int) -> None:
    if not 0 <= step <= last:
        raise AdapterError(f"explain: state as a step must be 0 to {last}, which generation ran, got {step}")


def _unknown(state: object, caller: str = "explain") -> ValueError:
    return ValueError(f"{caller}: state must be a step or one of {', '.join(get_args(StateName))}, got {state!r}")
