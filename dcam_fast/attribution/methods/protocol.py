"""What every method of making maps has in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from dcam_fast.config import RefineConfig
from dcam_fast.models.adapter import Adapter, ImageView, Inputs, Trajectory, Word


class AttributionMethod(Protocol):
    """A way to make a map for each word of an answer. Instances are frozen dataclasses: their fields are all that
    distinguishes one method of a kind from another."""

    @property
    def target_layers(self) -> tuple[int, ...] | None:
        """The layers that are explained, ascending; None: the adapter's choice."""

    @property
    def profile(self) -> RefineConfig:
        """How the raw maps are refined unless the caller says otherwise."""

    def raw_maps(
        self, adapter: Adapter[Any], inputs: Inputs, trajectory: Trajectory, words: Sequence[Word], view: ImageView
    ) -> Tensor:
        """Raw maps float32 ``[len(words), h, w]``, at least 0, over one view of the image."""
