"""`Answer`: what an attribution method explains words of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dcam_fast.attribution.by_word import positions_of
from dcam_fast.models.adapter import Adapter, ImageView, Inputs, Trajectory, Word


@dataclass(frozen=True, eq=False)
class Answer:
    """An answer with the model and the inputs that it came from.

    Attributes:
        adapter: of the model that answered.
        inputs: image and prompt, encoded.
        trajectory: the answer's tokens and the denoising step that wrote each.
    """

    adapter: Adapter[Any]
    inputs: Inputs
    trajectory: Trajectory

    @property
    def view(self) -> ImageView:
        """The grid of cells that maps cover: the first view of the image."""
        return self.inputs.views[0]

    @property
    def tokens(self) -> Tensor:
        """Tokens of the text, int64 `[n]`, without padding."""
        return self.trajectory.tokens[: self.trajectory.length]

    def positions(self, words: Sequence[Word]) -> Tensor:
        """Answer positions int64 `[T]` of the tokens of all `words`, on the model's device."""
        return positions_of(words).to(self.adapter.device)

    def layers(self, target_layers: tuple[int, ...] | None) -> tuple[int, ...]:
        """`target_layers`, or the adapter's default layers where that is None."""
        return self.adapter.default_layers if target_layers is None else target_layers

    def zeros(self, count: int) -> Tensor:
        """Empty maps, float32 `[count, h, w]`."""
        return self.view.boxes.new_zeros(count, *self.view.cells.shape)

    def __repr__(self) -> str:
        h, w = self.view.cells.shape
        return f"Answer({self.adapter.decode(self.tokens)!r}, model={self.adapter.name!r}, cells=[{h}, {w}])"
