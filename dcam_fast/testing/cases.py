"""The case that a conformance check looks at, and what its model computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcam_fast.attribution.methods.gradient_cam import build_targets
from dcam_fast.attribution.target_batch import TargetBatch
from dcam_fast.models.adapter import Adapter, Hidden, Inputs, Trajectory


@dataclass(frozen=True)
class Case:
    """An adapter, with an answer that it generated.

    Attributes:
        adapter: to check.
        image: uint8 `[H, W, 3]`.
        inputs: image and prompt, encoded.
        trajectory: of the answer.
        model_states: of the model, before and after; see `state_of`.
    """

    adapter: Adapter[Any]
    image: NDArray[np.uint8]
    inputs: Inputs
    trajectory: Trajectory
    model_states: tuple[dict[str, object], dict[str, object]]


def state_of(adapter: Adapter[Any]) -> dict[str, object]:
    """Modes, flags and values of the model, by name."""
    model = torch.nn.Module() if adapter.model is None else adapter.model
    state: dict[str, object] = {f"{name}.training": part.training for name, part in model.named_modules()}
    state |= {f"{name}.requires_grad": value.requires_grad for name, value in model.named_parameters()}
    return state | {name: value.detach().clone() for name, value in model.state_dict().items()}


def targets_at(case: Case, state: str = "remask", count: int = 1) -> TargetBatch:
    """The first `count` positions of the answer at a state."""
    positions = torch.arange(count, device=case.trajectory.tokens.device)
    return build_targets(case.trajectory, positions, state, case.adapter.mask_token)  # type: ignore[arg-type]


def same_answer(one: Trajectory, other: Trajectory) -> bool:
    """Whether two answers have the same tokens, written at the same steps."""
    return one.tokens.equal(other.tokens) and one.known_steps("committed").equal(other.known_steps("committed"))


def canvases_at(case: Case, state: str, count: int = 1) -> Tensor:
    """Canvases of the first `count` positions at a state, `[count, L]`."""
    return targets_at(case, state, count).canvases


@torch.no_grad()
def embedded_case(case: Case) -> Hidden:
    """The input of layer 0 for the answer with its first token masked."""
    return case.adapter.embed(case.inputs, canvases_at(case, "remask"))


@torch.no_grad()
def logits_of(case: Case, canvases: Tensor) -> Tensor:
    """Logits of all positions, `[C, L, V]`."""
    adapter = case.adapter
    hidden = adapter.embed(case.inputs, canvases)
    for index in range(adapter.num_layers):
        hidden = adapter.layer(index, hidden, case.inputs)
    rows = torch.arange(len(case.trajectory.tokens), device=canvases.device).expand(len(canvases), -1)
    return adapter.logits(hidden, rows, case.inputs)
