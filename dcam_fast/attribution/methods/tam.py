"""TAM, token activation maps (arXiv 2506.23270): the logit of a word's own token at every image cell, less what other
words of the answer explain. No gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcam_fast import ops
from dcam_fast.attribution.answer import Answer
from dcam_fast.attribution.answer_states import canvases
from dcam_fast.attribution.by_word import mean_by_word
from dcam_fast.attribution.methods.protocol import Claim
from dcam_fast.config import RAW, RefineConfig
from dcam_fast.interruption import checked
from dcam_fast.models.adapter import Word


@dataclass(frozen=True)
class Tam:
    """Maps of the finished answer, from one forward pass.

    Attributes:
        target_layers: unused.
        kernel_size: side of the rank-Gaussian filter, in cells.
        profile: how the map is refined after that filter.
    """

    target_layers: tuple[int, ...] | None = None
    kernel_size: int = 3
    profile: RefineConfig = RAW

    @property
    def claim(self) -> Claim:
        """See `AttributionMethod.claim`."""
        score = "the token's logit there, less what other tokens of the answer explain, rank-filtered"
        return Claim("the logit of each token, read at the cells of the image", score, "final")

    @torch.no_grad()
    def raw_maps(self, answer: Answer, words: Sequence[Word]) -> Tensor:
        """See `AttributionMethod.raw_maps`."""
        if not words:
            return answer.zeros(0)
        adapter, inputs, cells, tokens = answer.adapter, answer.inputs, answer.view.cells, answer.tokens
        finished = canvases(answer.trajectory, tokens.new_zeros(1), "final", adapter.mask_token)
        hidden = adapter.embed(inputs, finished)
        for index in checked(range(adapter.num_layers - 1)):
            hidden = adapter.layer(index, hidden, inputs)
        cell_logits = adapter.image_logits(hidden, cells.flatten(), tokens, inputs)[0].T
        rows = torch.arange(len(tokens), device=tokens.device)[None]
        logits = adapter.logits(adapter.layer(adapter.num_layers - 1, hidden, inputs), rows, inputs)[0]
        scores = logits[:, tokens].T  # [t, j]: token t's class read at position j
        texts = [adapter.decode(token).strip() for token in tokens.split(1)]
        context, baselines = (mask.to(tokens.device) for mask in context_of(texts, adapter.causal))
        maps = activation_maps(cell_logits, scores, context, baselines).view(-1, *cells.shape)
        return mean_by_word(ops.rank_filter(maps[answer.positions(words)], self.kernel_size), words)


def context_of(texts: Sequence[str], causal: bool) -> tuple[Tensor, Tensor]:
    """Context and interfering tokens of each token of an answer.

    Returns:
        Two bool `[T, T]`. Row `t` of the first marks the context of token `t`: the earlier tokens on a causal model,
        else all other tokens. Row `t` of the second marks those of them with another text.
    """
    count = len(texts)
    others = ~torch.eye(count, dtype=torch.bool)
    context = others.tril() if causal else others
    different = torch.tensor([[a != b for b in texts] for a in texts], dtype=torch.bool).view(count, count)
    return context, context & different


def activation_maps(cells: Tensor, scores: Tensor, context: Tensor, baselines: Tensor) -> Tensor:
    """Estimated causal inference and joint normalization.

    Args:
        cells: `[T, N]`, logits of every answer token at the image cells.
        scores: `[T, T]`, logits of token t (row) at answer position j.
        context: bool `[T, T]`, the context of each token; see `context_of`.
        baselines: bool `[T, T]`, the tokens of the context that may interfere.

    Returns:
        `[T, N]` in 0..1, normalized by the extremes of a token's map and of its scores at its context together. A word
        that depends on other words has a weak map.
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
