"""Positive activations of a layer, without gradients: a baseline whose maps do not depend on the word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcam_fast import ops
from dcam_fast.attribution.answer import Answer
from dcam_fast.attribution.answer_states import State, canvases
from dcam_fast.attribution.by_word import mean_by_word
from dcam_fast.attribution.methods.protocol import Claim
from dcam_fast.config import RAW, RefineConfig
from dcam_fast.models.adapter import Word


@dataclass(frozen=True)
class Activation:
    """Mean over channels of the positive activations at the output of the target layers, averaged over layers.

    Attributes:
        state: the answer state of the pass (`dcam_fast.attribution.answer_states`). It matters only where the image
            attends to the answer.
        target_layers: ascending. None: the adapter's default layers.
        profile: how the map is refined.
    """

    state: State = "remask"
    target_layers: tuple[int, ...] | None = None
    profile: RefineConfig = RAW

    @property
    def claim(self) -> Claim:
        """See `AttributionMethod.claim`."""
        score = "the mean over channels of the positive activations there, whatever the word is"
        return Claim("the hidden states of the image", score, self.state)

    @torch.no_grad()
    def raw_maps(self, answer: Answer, words: Sequence[Word]) -> Tensor:
        """See `AttributionMethod.raw_maps`."""
        adapter, inputs, cells = answer.adapter, answer.inputs, answer.view.cells
        layers = answer.layers(self.target_layers)
        adapter.check_layers(layers)
        if not words:
            return answer.zeros(0)
        positions = answer.positions(words)
        hidden = adapter.embed(inputs, canvases(answer.trajectory, positions, self.state, adapter.mask_token))
        kept = []
        for index in range(layers[-1] + 1):
            hidden = adapter.layer(index, hidden, inputs)
            if index in layers:
                kept.append(hidden.image.expand(len(positions), -1, -1))
        maps = ops.pool(kept, kept, cells.flatten(), "activation")  # which reads no gradients
        return mean_by_word(maps.view(-1, *cells.shape), words)
