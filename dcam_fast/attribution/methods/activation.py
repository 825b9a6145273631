"""The positive activations of a layer, without any gradient: what a map is worth that does not know its word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dcam_fast import ops
from dcam_fast.attribution.answer_states import State, canvases
from dcam_fast.attribution.by_word import mean_by_word, positions_of
from dcam_fast.config import RAW, RefineConfig
from dcam_fast.models.adapter import Adapter, ImageView, Inputs, Trajectory, Word


@dataclass(frozen=True)
class Activation:
    """Mean over the channels of what is positive behind one layer, or the mean of several layers' maps.

    Attributes:
        state: the answer state of the pass (`attribution.states`); it matters only where the image sees the answer.
        target_layers: ascending; None: the adapter's choice.
        profile: how the map is refined.
    """

    state: State = "remask"
    target_layers: tuple[int, ...] | None = None
    profile: RefineConfig = RAW

    @torch.no_grad()
    def raw_maps(
        self, adapter: Adapter[Any], inputs: Inputs, trajectory: Trajectory, words: Sequence[Word], view: ImageView
    ) -> Tensor:
        """See `dcam_fast.attribution.AttributionMethod.raw_maps`."""
        layers = adapter.default_layers if self.target_layers is None else self.target_layers
        adapter.check_layers(layers)
        if not words:
            return view.boxes.new_zeros(0, *view.cells.shape)
        positions = positions_of(words).to(adapter.device)
        hidden = adapter.embed(inputs, canvases(trajectory, positions, self.state, adapter.mask_token))
        kept = []
        for index in range(layers[-1] + 1):
            hidden = adapter.layer(index, hidden, inputs)
            if index in layers:
                kept.append(hidden.image.expand(len(positions), -1, -1))
        maps = ops.pool(kept, kept, view.cells.flatten(), "activation")  # which reads no gradients
        return mean_by_word(maps.view(-1, *view.cells.shape), words)
