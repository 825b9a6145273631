"""TAM, token activation maps (arXiv 2506.23270): the logit of a word's own token read at every cell of the image,
cleared of what other words of the answer explain. No gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dcam_fast import ops
from dcam_fast.attribution.answer_states import canvases
from dcam_fast.attribution.by_word import mean_by_word, positions_of
from dcam_fast.config import RAW, RefineConfig
from dcam_fast.models.adapter import Adapter, ImageView, Inputs, Trajectory, Word


@dataclass(frozen=True)
class Tam:
    """Maps of the finished answer, from one forward pass.

    Attributes:
        target_layers: no map depends on it.
        kernel_size: side of the rank-Gaussian filter.
        profile: what refines the map behind that filter.
    """

    target_layers: tuple[int, ...] | None = None
    kernel_size: int = 3
    profile: RefineConfig = RAW

    @torch.no_grad()
    def raw_maps(
        self, adapter: Adapter[Any], inputs: Inputs, trajectory: Trajectory, words: Sequence[Word], view: ImageView
    ) -> Tensor:
        """See `dcam_fast.attribution.AttributionMethod.raw_maps`."""
        if not words:
            return view.boxes.new_zeros(0, *view.cells.shape)
        answer = trajectory.tokens[: trajectory.length]
        finished = canvases(trajectory, trajectory.steps.new_zeros(1), "final", adapter.mask_token)
        hidden = adapter.embed(inputs, finished)
        for index in range(adapter.num_layers - 1):
            hidden = adapter.layer(index, hidden, inputs)
        cells = adapter.image_logits(hidden, view.cells.flatten(), answer, inputs)[0].T
        rows = torch.arange(len(answer), device=answer.device)[None]
        logits = adapter.logits(adapter.layer(adapter.num_layers - 1, hidden, inputs), rows, inputs)[0]
        scores = logits[:, answer].T  # [t, j]: token t's class read at position j
        texts = [adapter.decode(answer[i : i + 1]).strip() for i in range(len(answer))]
        context, baselines = (mask.to(answer.device) for mask in context_of(texts, adapter.causal))
        maps = activation_maps(cells, scores, context, baselines).view(-1, *view.cells.shape)
        return mean_by_word(ops.rank_filter(maps[positions_of(words).to(answer.device)], self.kernel_size), words)


def context_of(texts: Sequence[str], causal: bool) -> tuple[Tensor, Tensor]:
    """Of the tokens of an answer, bool ``[T, T]`` each, row t: those that token t is read with, on a causal model the
    earlier ones, otherwise all others; and of them those of another text, which may interfere with it."""
    count = len(texts)
    everything = torch.ones(count, count, dtype=torch.bool)
    context = everything.tril(-1) if causal else ~torch.eye(count, dtype=torch.bool)
    different = torch.tensor([[a != b for b in texts] for a in texts], dtype=torch.bool).view(count, count)
    return context, context & different


def activation_maps(cells: Tensor, scores: Tensor, context: Tensor, baselines: Tensor) -> Tensor:
    """Estimated causal inference and joint normalization.

    Args:
        cells: ``[T, N]``, logits of every answer token at the image's cells.
        scores: ``[T, T]``, logits of token t (row) at answer position j.
        context, baselines: bool ``[T, T]``, see `context_of`.

    Returns:
        ``[T, N]`` in 0..1: 0 and 1 are the extremes of a token's map and its scores at its context together, so a word
        that rests on other words has a weak map.
    """
    maps, scores = cells.clamp(min=0), scores.clamp(min=0)
    weights = torch.where(baselines, scores, 0)
    interference = weights / weights.sum(1, keepdim=True).clamp(min=1e-8) @ maps
    energy = interference.square().sum(1)
    scale = (maps * interference).sum(1) / torch.where(energy > 0, energy, 1)
    maps = (maps - scale[:, None] * interference).clamp(min=0)
    low = torch.minimum(maps.amin(1), torch.where(context, scores, torch.inf).amin(1))[:, None]
    high = torch.maximum(maps.amax(1), torch.where(context, scores, 0).amax(1))[:, None]
    return (maps - low) / (high - low).clamp(min=1e-8)
