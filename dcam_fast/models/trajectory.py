"""`Trajectory`: an answer and the denoising step that wrote each of its tokens."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

NO_MASK: Final = -1  # the mask token of a family that has none and denoises uniform noise
OPEN: Final = torch.iinfo(torch.int64).max  # the step of a position that is still masked: later than any


def _summary(value: object) -> str:
    """The repr of a value, with dtype and shape in place of a tensor's or array's numbers."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_summary, value))}{',' * (len(value) == 1)})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_summary(item)}' for key, item in value.items())}}}"
    return repr(value)


class TensorFields:
    """Base of the dataclasses that hold tensors: their repr shows dtypes and shapes."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__repr__" not in vars(cls):  # dataclass() then leaves it as it is
            cls.__repr__ = TensorFields.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{name}={_summary(getattr(self, name))}' for name in names)})"


@dataclass(frozen=True)
class Trajectory(TensorFields):
    """An answer and the denoising step that wrote each of its tokens. During generation it describes the steps so far.

    Attributes:
        tokens: int64 `[L]`, the answer.
        steps: int64 `[L]`, the denoising step, from 0, that unmasked each position. `OPEN` marks a position that is
            still masked; its token is then not part of the answer. Where another engine wrote the answer, it also marks
            the padding whose step is unknown. None: all steps are unknown.
        length: how many leading positions are text; the others are padding.
        canvases: int64 `[S, K]`, the model's input at every step, or at the first one alone where steps are unknown.
            Only for families where tokens and steps do not determine it (no mask token, tokens that are overwritten).
            The first `L` of the `K` columns are token ids. The others hold whatever else the family's `Adapter.embed`
            needs, 0 for nothing.
    """

    tokens: Tensor
    steps: Tensor | None
    length: int
    canvases: Tensor | None = None

    def known_steps(self, state: object) -> Tensor:
        """`steps`, for an answer state that needs them.

        Raises:
            ValueError: naming the state, if they are unknown.
        """
        if self.steps is None:
            raise unknown_steps(state, "GivenAnswer(tokens, steps=...)")
        return self.steps


def unknown_steps(state: object, holder: str) -> ValueError:
    """The error for an answer state that needs more than is known of an answer; `holder` is what would hold it."""
    return ValueError(
        "explain: state must be 'remask', 'first' or 'final' for an answer whose steps are unknown, "
        f"got {state!r}, which needs the steps of the answer: {holder}"
    )
