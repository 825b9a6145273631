"""What a map says about its word: where its strength sits, and whether the word points at anything at all."""

from __future__ import annotations

import torch
from torch import Tensor


def peak(maps: Tensor) -> Tensor:
    """Share of each map ``[T, h, w]`` that its strongest cell holds, ``[T]`` in 0..1; 0 for an empty map."""
    flat = maps.flatten(1)
    return flat.amax(1) / flat.sum(1).clamp(min=1e-8)


def spread(maps: Tensor) -> Tensor:
    """Share of the cells that each map ``[T, h, w]`` is spread over, ``[T]`` in 0..1: the exponential of its entropy
    over the number of cells. 1 for an even map, 1 / N for a single cell, and 1 for an empty map, which points
    nowhere."""
    share = maps.flatten(1) / maps.flatten(1).sum(1, keepdim=True).clamp(min=1e-8)
    perplexity = torch.special.entr(share).sum(1).exp()
    return torch.where(share.sum(1) > 0, perplexity / share.shape[1], 1.0)


def groundedness(maps: Tensor, seen: Tensor, blank: Tensor) -> Tensor:
    """Whether each word points somewhere, ``[T]`` in 0..1: dependence on the image times focus of the map.

    Dependence is the part of the word's probability that goes when the image shows nothing (``1 - p_blank / p_seen``):
    a function word is as likely without the picture. Focus is ``1 - spread``: an abstract word may need the picture,
    but no place in it.

    Args:
        maps: ``[T, h, w]``, refined.
        seen: log-probability ``[T]`` of each word's token given the image.
        blank: the same given an empty image.
    """
    dependence = 1 - (blank - seen).exp().clamp(max=1)
    return dependence * (1 - spread(maps))
