"""`ExplainedAnswer`: an answer, its targets and their maps."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcam_fast.words import align, fold, is_sign, occurrences, positions_in, split_ordinal, split_parts, words_in

SCORES: Final = ("peak", "spread", "groundedness", "image_share", "prompt_share", "answer_share")


@dataclass(frozen=True)
class Token:
    """One token of the answer: its position, and the denoising step (from 0) that committed it.

    The step is None where it is unknown, and at a position that generation has left masked.
    """

    text: str
    id: int
    position: int
    step: int | None


@dataclass(frozen=True)
class Alternative:
    """A token that the model could have written at a position, and its probability there."""

    text: str
    id: int
    probability: float


@dataclass(frozen=True)
class Target:
    """What one map explains: a word or phrase of the answer.

    The scores from `groundedness` on, and the alternatives, are of the finished answer with the token masked again.
    They are None, and there are no alternatives, where the scores were not requested.

    Attributes:
        text: as it reads in the answer.
        positions: of its tokens, as in `Token.position`.
        peak: share of the map's total that its strongest cell holds, 0 to 1.
        spread: share of the cells that the map is spread over, 0 to 1 (even).
        groundedness: 0 to 1, low where the word points nowhere in particular. That of a contrast takes
            `p(word) / (p(word) + p(instead))` as the word's probability.
        image_share: the part of the word's probability that is lost without the image, 0 to 1. Low for words that the
            image does not support.
        prompt_share: the same without the prompt.
        answer_share: the same without the other words of the answer.
        alternatives: for each of `positions`, the 5 most confident tokens, the most confident first.
        instead: of a `dcam_fast.Contrast`, what the word is compared with. None: nothing.
    """

    text: str
    positions: tuple[int, ...]
    peak: float
    spread: float
    groundedness: float | None = None
    image_share: float | None = None
    prompt_share: float | None = None
    answer_share: float | None = None
    alternatives: tuple[tuple[Alternative, ...], ...] = ()
    instead: str | None = None

    @property
    def scores(self) -> dict[str, float | None]:
        """Its scores by name: peak, spread, groundedness and the three shares."""
        return {name: getattr(self, name) for name in SCORES}


@dataclass(frozen=True)
class Piece:
    """A part of the answer's text: a token with the index of its target, or the text between tokens."""

    text: str
    token: Token | None = None
    target: int | None = None


@dataclass(frozen=True, eq=False)
class ExplainedAnswer:
    """An answer, its targets and their maps. Users get its subclass `dcam_fast.Explanation`.

    Attributes:
        image: uint8 `[H, W, 3]`, the image that was asked about.
        prompt: the question.
        answer: the text of the answer.
        tokens: of the answer, in order.
        targets: `T` of them.
        maps: float32 `[T, h, w]` in 0..1, refined, on the model's device.
        raw_maps: float32 `[T, h, w]`, before refinement.
        boxes: float32 `[h, w, 4]`, the pixels (x0, y0, x1, y1) of `image` that each cell covers.
        provenance: model, method, settings, versions and seconds of each stage, as JSON values.

    Raises:
        ValueError: if these do not fit together.
    """

    image: NDArray[np.uint8]
    prompt: str
    answer: str
    tokens: tuple[Token, ...]
    targets: tuple[Target, ...]
    maps: Tensor
    raw_maps: Tensor
    boxes: Tensor
    provenance: Mapping[str, object]

    def __post_init__(self) -> None:
        if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3 or not self.image.size:
            raise _error("image", "uint8 [H, W, 3]", f"{self.image.dtype} {list(self.image.shape)}")
        maps, count = self.maps, len(self.targets)
        if maps.dtype is not torch.float32 or maps.dim() != 3 or len(maps) != count or 0 in maps.shape[1:]:
            raise _error("maps", f"float32 [{count}, h, w]", f"{maps.dtype} {list(maps.shape)}")
        for name, tensor, shape in (
            ("raw_maps", self.raw_maps, maps.shape),
            ("boxes", self.boxes, (*maps.shape[1:], 4)),
        ):
            if tensor.dtype is not torch.float32 or tensor.shape != shape or tensor.device != maps.device:
                got = f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}"
                raise _error(name, f"float32 {list(shape)} on {maps.device}", got)
        for target in self.targets:
            if not all(value is None or math.isfinite(value) for value in target.scores.values()):
                raise _error("targets", "of finite scores", target)

    def __repr__(self) -> str:
        names = ", ".join(self.names)
        return f"{type(self).__name__}(answer={self.answer!r}, targets=[{names}], maps={list(self.maps.shape)})"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """A distinct name for each target, which `find` accepts: its text, with `"#2"` for the second occurrence in the
        answer, `" > "` and the other word for a contrast, and `" (2)"` if an earlier target has the same name."""
        words = words_in(self.answer, self._spans)
        names: list[str] = []
        for target in self.targets:
            runs = [set(positions_in(run)) for run in occurrences(target.text, words)]
            number = next((i for i, run in enumerate(runs, 1) if run.issuperset(target.positions)), 1)
            name = target.text if number == 1 else f"{target.text}#{number}"
            name = name if target.instead is None else f"{name} > {target.instead}"
            same = (name, *(f"{name} ({count})" for count in range(2, len(self.targets) + 1)))
            taken = set(map(fold, names))
            names.append(next(free for free in same if fold(free) not in taken))
        return tuple(names)

    def find(self, target: str | SupportsIndex) -> int:
        """The index of a target, given its name or the index itself.

        Case, Unicode normal form and the signs between words do not matter. `"ring#2"` is the second ring of the
        answer. `"ring"` is the first ring, or the first that is a target. `"red > blue"` is a contrast.

        Raises:
            ValueError: if there is no such target. The message lists the targets.
            TypeError: if `target` is neither a str nor an index.
        """
        if isinstance(target, str):
            text, ordinal = split_ordinal(target)
            named = f"{text}#{ordinal}" if ordinal not in (None, 1) else text
            texts = [item.text for item in self.targets] if ordinal is None else []
            for known in (self.names, texts):
                for key in (fold, _spoken):
                    keys = [key(name) for name in known]
                    if key(named).strip() and key(named) in keys:
                        return keys.index(key(named))
        elif 0 <= operator.index(target) < len(self.targets):
            return operator.index(target)
        known_names = ", ".join(map(repr, self.names)) or "none, because there are no targets"
        raise ValueError(f"Explanation.find: target must be one of {known_names} (or an index), got {target!r}")

    def map(self, target: str | SupportsIndex) -> Tensor:
        """The refined map of a target, float32 `[h, w]` in 0..1; see `find`.

        Raises:
            ValueError: if there is no such target.
        """
        return self.maps[self.find(target)]

    def __getitem__(self, target: str | SupportsIndex) -> Tensor:
        """The same as `map`."""
        return self.map(target)

    def __len__(self) -> int:
        """The number of targets."""
        return len(self.targets)

    def __iter__(self) -> Iterator[str]:
        """The names of the targets."""
        return iter(self.names)

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Name and refined map of each target, in order."""
        return zip(self.names, self.maps, strict=True)

    @cached_property
    def _spans(self) -> list[tuple[int, int]]:
        """The (start, end) characters of each token in the answer."""
        return align(self.answer, [token.text for token in self.tokens])

    def pieces(self) -> tuple[Piece, ...]:
        """The answer split into tokens and the text between them. Joined, the texts are the answer.

        A character that several tokens spell together is one piece; its token is the one committed last. A token of
        several targets belongs to the target with the fewest tokens.
        """
        holders: list[list[Token]] = [[] for _ in self.answer]
        for token, (start, end) in zip(self.tokens, self._spans, strict=True):
            for character in range(start, end):
                holders[character].append(token)
        pieces, cursor = [], 0
        for _, run in itertools.groupby(holders, lambda tokens: [token.position for token in tokens]):
            tokens, *rest = run
            text = self.answer[cursor : cursor + 1 + len(rest)]
            positions = {token.position for token in tokens}
            holding = [i for i, target in enumerate(self.targets) if positions.intersection(target.positions)]
            index = min(holding, key=lambda i: len(self.targets[i].positions), default=None)
            pieces.append(Piece(text, max(tokens, key=_order, default=None), index))
            cursor += len(text)
        return tuple(pieces)

    def steps(self, target: str | SupportsIndex) -> tuple[int, ...]:
        """The denoising steps that committed the tokens of a target, ascending. Empty where they are unknown.

        Raises:
            ValueError: if there is no such target.
        """
        positions = self.targets[self.find(target)].positions
        steps = {token.step for token in self.tokens if token.position in positions}
        return tuple(sorted(step for step in steps if step is not None))


def _order(token: Token) -> tuple[int, int]:
    """By which of several tokens the one committed last is found; where steps are unknown, the last one."""
    return (-1, token.position) if token.step is None else (token.step, 0)


def _spoken(name: str) -> str:
    """A name without its signs, as `find` compares it."""
    text, ordinal = split_ordinal(name)
    parts = (text[start:end] for start, end in split_parts(text))
    return " ".join(
        [*(fold(part) for part in parts if not is_sign(part)), *([] if ordinal is None else [f"#{ordinal}"])]
    )


def _error(name: str, need: str, got: object) -> ValueError:
    return ValueError(f"Explanation: {name} must be {need}, got {got}")
