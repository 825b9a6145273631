"""The interface that every attribution method implements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dcam_fast.attribution.answer import Answer
from dcam_fast.attribution.answer_states import State
from dcam_fast.config import RefineConfig
from dcam_fast.models.adapter import Word


@dataclass(frozen=True)
class Claim:
    """What the maps of a method say, for the provenance of an explanation.

    Attributes:
        output: what is explained, as a noun phrase.
        score: what the value of a cell is, as a noun phrase.
        state: the answer state of the passes. None: there are no passes.
    """

    output: str
    score: str
    state: State | None


class AttributionMethod(Protocol):
    """How to make a map for each word of an answer.

    Instances are frozen dataclasses: two methods of one class with equal fields make equal maps. The page
    docs/adding-a-method.md builds one.
    """

    @property
    def target_layers(self) -> tuple[int, ...] | None:
        """The layers that are explained, ascending. None: the adapter's default layers."""

    @property
    def profile(self) -> RefineConfig:
        """How raw maps are refined unless the caller chooses another profile."""

    @property
    def claim(self) -> Claim:
        """What the maps say."""

    def raw_maps(self, answer: Answer, words: Sequence[Word]) -> Tensor:
        """Raw maps of some words of an answer.

        It is called with autograd enabled, in the package's own torch modes (docs/production.md).

        Args:
            answer: model, encoded image and prompt, and the answer's trajectory.
            words: the words to explain, each with the positions of its tokens. There may be none.

        Returns:
            float32 `[len(words), h, w]`, at least 0, over the cells of `answer.view`, on the model's device.

        Raises:
            AdapterError: if the model does not support the method.
        """
