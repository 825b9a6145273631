"""Answers that another engine wrote: how their tokens become the canvas that the family's generation would leave."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcam_fast.checks import check_whole
from dcam_fast.models.generation import Generation
from dcam_fast.models.trajectory import NO_MASK, OPEN, Trajectory

if TYPE_CHECKING:
    from dcam_fast.models.adapter import Adapter


@dataclass(frozen=True)
class GivenAnswer:
    """The tokens of an answer that another engine wrote.

    Attributes:
        tokens: ids of the text, with or without its end token, or of the whole canvas. Any sequence, 1-D array or 1-D
            tensor of integers becomes a tuple.
        steps: the denoising step, from 0, that wrote each token; likewise. None: unknown. The state `"committed"` and
            steps as states need those of every position that generation wrote, end token and padding too.

    Raises:
        TypeError: for something that is not a sequence of integers.
        ValueError: for another number of steps than of tokens, or a negative step.

    Example:
        >>> GivenAnswer(torch.tensor([4, 22, 27]), steps=[2, 0, 1])
        GivenAnswer(tokens=(4, 22, 27), steps=(2, 0, 1))
    """

    tokens: tuple[int, ...]
    steps: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", integers("GivenAnswer", "tokens", self.tokens))
        if self.steps is None:
            return
        steps = integers("GivenAnswer", "steps", self.steps)
        if len(steps) != len(self.tokens):
            raise ValueError(
                f"GivenAnswer: steps must be as many as the tokens, {len(self.tokens)}, or None, got {len(steps)}"
            )
        for step in steps:
            if not 0 <= step <= OPEN:
                raise ValueError(f"GivenAnswer: steps must be from 0 to 2**63 - 1, got {step}")
        object.__setattr__(self, "steps", steps)


AnswerLike = str | Sequence[SupportsIndex] | NDArray[np.integer[Any]] | Tensor | GivenAnswer | Trajectory


def integers(caller: str, name: str, values: object) -> tuple[int, ...]:
    """A sequence, 1-D array or 1-D tensor of integers as a tuple.

    Raises:
        TypeError: naming the caller and the argument, for anything else.
    """
    items = values.tolist() if isinstance(values, Tensor | np.ndarray) else values
    if not isinstance(items, Sequence) or isinstance(items, str | bytes | bytearray):
        raise TypeError(f"{caller}: {name} must be a sequence of integers, got {values!r}")
    for item in items:
        if isinstance(item, bool | np.bool_) or not _is_index(item):
            raise TypeError(f"{caller}: {name} must be a sequence of integers, got one with {item!r}")
    return tuple(map(operator.index, items))


def _is_index(item: object) -> bool:
    """Whether `operator.index` takes it: of arrays and tensors, those that hold one integer."""
    try:
        operator.index(item)  # type: ignore[arg-type]
    except TypeError:
        return False
    return not (isinstance(item, Tensor) and item.dtype is torch.bool)


@dataclass(frozen=True)
class AnswerFormat:
    """What a finished answer of a family looks like on its canvas.

    Attributes:
        length: tokens of the canvas.
        num_tokens: token ids are below it.
        mask_token: the model's, or `NO_MASK`.
        end_tokens: ids that end the text.
        end: the one of them that generation writes after a text. None: a text has to fill the canvas.
        padding: the id that generation leaves at the positions after it: `mask_token` where it stops at the end.
    """

    length: int
    num_tokens: int
    mask_token: int
    end_tokens: tuple[int, ...]
    end: int | None
    padding: int

    def trajectory(self, answer: GivenAnswer, device: torch.device) -> Trajectory:
        """The trajectory of a finished generation that wrote an answer, without canvases.

        A whole canvas stays as it is. A shorter answer is completed by the end token, if it has none, and padding,
        whose steps are `OPEN`.

        Raises:
            ValueError: for an answer that does not fit the canvas.
        """
        length = self._text_length(answer.tokens)
        canvas = self._completed(answer.tokens, length)
        tokens = torch.tensor(canvas, dtype=torch.int64, device=device)
        if answer.steps is None:
            return Trajectory(tokens, None, length)
        steps = torch.full_like(tokens, OPEN)
        steps[: len(answer.steps)] = torch.tensor(answer.steps, dtype=torch.int64)
        return Trajectory(tokens, steps.masked_fill(tokens == self.mask_token, OPEN), length)

    def check(self, trajectory: Trajectory, device: torch.device) -> Trajectory:
        """Returns a trajectory that is one of the family's.

        Raises:
            ValueError: for another.
        """
        tokens, steps, canvases = trajectory.tokens, trajectory.steps, trajectory.canvases
        _check_tensor("tokens", tokens, (self.length,), device)
        self._check_ids(tokens.tolist())
        if steps is not None:
            _check_tensor("steps", steps, (self.length,), device)
            if bool((steps < 0).any()):
                raise ValueError(f"explain: answer.steps must be from 0, got {int(steps.min())}")
        length = trajectory.length
        if not isinstance(length, Integral) or isinstance(length, bool) or not 0 <= length <= self.length:
            raise ValueError(f"explain: answer.length must be 0 to {self.length}, got {length!r}")
        if (canvases is None) == (self.mask_token == NO_MASK):
            need, got = ("a tensor", "None") if canvases is None else ("None", "a tensor")
            raise ValueError(f"explain: answer.canvases must be {need} for this model, got {got}")
        if canvases is not None:
            _check_tensor("canvases", canvases, (None, None), device)
        # a step may have written the mask token itself
        text = tokens[:length] if steps is None else tokens[:length].where(steps[:length] == OPEN, NO_MASK - 1)
        self._check_finished(text)
        return trajectory

    def _check_finished(self, text: Tensor) -> None:
        for position in (text == self.mask_token).nonzero().flatten().tolist():
            raise ValueError(
                f"explain: answer must be finished, got the mask token {self.mask_token} in its text, at position "
                f"{position}"
            )

    def _check_ids(self, tokens: Sequence[int]) -> None:
        for position, token in enumerate(tokens):
            if not 0 <= token < self.num_tokens:
                raise ValueError(
                    f"explain: answer must be token ids from 0 to {self.num_tokens - 1}, got {token} at position "
                    f"{position}"
                )

    def _text_length(self, tokens: Sequence[int]) -> int:
        """How many tokens are text: those before the first end token."""
        if len(tokens) > self.length:
            raise ValueError(f"explain: answer must be at most {self.length} tokens, got {len(tokens)}")
        self._check_ids(tokens)
        length = next((position for position, token in enumerate(tokens) if token in self.end_tokens), len(tokens))
        self._check_finished(torch.tensor(tokens[:length], dtype=torch.int64))
        return length

    def _completed(self, tokens: tuple[int, ...], length: int) -> tuple[int, ...]:
        """A whole canvas, given how many tokens are text."""
        if len(tokens) == self.length:
            return tokens
        for position, token in enumerate(tokens[length:], length):
            if token not in (*self.end_tokens, self.padding):
                raise ValueError(
                    "explain: answer must be the whole canvas or have only padding after its end token, got token "
                    f"{token} at position {position}, after the end token at position {length}"
                )
        if length == len(tokens):
            if self.end is None:
                raise ValueError(
                    f"explain: answer must be all {self.length} tokens for a model without an end token, "
                    f"got {len(tokens)}"
                )
            tokens = (*tokens, self.end)
        return (*tokens, *[self.padding] * (self.length - len(tokens)))


def _check_tensor(name: str, value: object, shape: tuple[int | None, ...], device: torch.device) -> None:
    """Raises TypeError or ValueError unless a field of an answer is an int64 tensor; None is a side of any length."""
    need = f"int64 [{', '.join('n' if side is None else str(side) for side in shape)}] on {device}"
    if not isinstance(value, Tensor):
        raise TypeError(f"explain: answer.{name} must be {need}, got {type(value).__name__}")
    fits = value.ndim == len(shape) and all(b is None or a == b for a, b in zip(value.shape, shape, strict=True))
    if not fits or value.dtype != torch.int64 or value.device != device:
        got = f"{value.dtype} {list(value.shape)} on {value.device}"
        raise ValueError(f"explain: answer.{name} must be {need}, got {got}")


def given_trajectory(answer: AnswerLike, adapter: Adapter[Any], generation: Generation) -> Trajectory:
    """The trajectory of an answer that another engine wrote.

    Args:
        answer: as in `Explainer.explain`.
        adapter: of the model.
        generation: its seed is that of the noise of a family without a mask token.

    Raises:
        TypeError: for an answer of another type.
        ValueError: for one that the model cannot have written.
    """
    if isinstance(answer, Trajectory):
        return adapter.answer_format.check(answer, adapter.device)
    if isinstance(answer, GivenAnswer):
        return adapter.given(answer.tokens, answer.steps, generation)
    if isinstance(answer, str):
        return adapter.given(_encoded(answer, adapter), None, generation)
    if not isinstance(answer, Sequence | np.ndarray | Tensor) or isinstance(answer, bytes | bytearray):
        need = "a str, token ids, a GivenAnswer, a Trajectory or None"
        raise TypeError(f"explain: answer must be {need}, got {answer!r}")
    return adapter.given(integers("explain", "answer", answer), None, generation)


def _encoded(text: str, adapter: Adapter[Any]) -> list[int]:
    """Token ids of a text.

    Raises:
        ValueError: if they do not spell it, apart from white space around it.
    """
    check_whole("explain", "answer", text)
    tokens = adapter.encode_answer(text)
    spelled = adapter.decode(torch.tensor(tokens, dtype=torch.int64))
    if spelled.strip() != text.strip():
        raise ValueError(
            f"explain: answer must be a text that {adapter.name} can write, got {text!r}, which its tokenizer turns "
            f"into {spelled!r}; give the token ids instead"
        )
    return tokens
