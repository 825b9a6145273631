"""The scalar that is differentiated (arXiv 2604.11005, section 3.2; docs/method.md, section 0)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

ObjectiveName = Literal["logprob", "logit", "contrast", "contrast_sum"]
Objective = ObjectiveName | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scores:
    """What an objective is computed from.

    Attributes:
        target: float32 `[T, V]`, logits at the targets' positions.
        distractor: float32 `[T, V]`, logits at the distractors' positions.
        tokens: int64 `[T]`, the tokens that were produced at the targets' positions.
    """

    target: Tensor
    distractor: Tensor
    tokens: Tensor


def _produced(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.gather(1, tokens[:, None])[:, 0]


def evaluate(objective: Objective, scores: Scores) -> Tensor:
    """One scalar for each target, `[T]`.

    * `"logprob"`: log-probability of the produced token.
    * `"logit"`: its logit.
    * `"contrast"`: its logit minus the same token's logit at the distractor.
    * `"contrast_sum"`: the sum of all logits at the target minus the sum at the distractor (the published method).
    * A callable gets the logits `[V]` of one target and returns a scalar.

    Raises:
        ValueError: for an unknown name, or if a callable does not return a scalar.
    """
    if callable(objective):
        values = [objective(row) for row in scores.target]
        for value in values:
            if value.ndim:
                raise ValueError(f"GradientCAM: objective must return a scalar, got shape {tuple(value.shape)}")
        return torch.stack(values)
    match objective:
        case "logprob":
            # the gradient is 1 - p, which float32 rounds to 0 where p is close to 1
            return _produced(scores.target.double().log_softmax(-1), scores.tokens).float()
        case "logit":
            return _produced(scores.target, scores.tokens)
        case "contrast":
            return _produced(scores.target - scores.distractor, scores.tokens)
        case "contrast_sum":
            return (scores.target - scores.distractor).sum(-1)
    raise ValueError(
        f"GradientCAM: objective must be one of {', '.join(get_args(ObjectiveName))} or a callable, got {objective!r}"
    )
