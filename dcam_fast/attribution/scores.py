"""What a map says about its word: where its strength sits, and whether the word points at anything at all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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


def hot_cells(maps: Tensor) -> Tensor:
    """The place a map points at, bool ``[T, h, w]``: cells of at least a tenth of its maximum, and their neighbors,
    for an edge that is left gives a color away. None in an empty map."""
    strongest = maps.flatten(1).amax(1).view(-1, 1, 1)
    hot = maps > (0.1 * strongest).clamp(min=1e-6)
    return F.max_pool2d(hot[:, None].float(), 3, 1, 1)[:, 0] > 0


def groundedness(maps: Tensor, seen: Tensor, ablated: Tensor) -> Tensor:
    """Whether each word rests on the place that its map points at, ``[T]`` in 0..1: dependence times focus.

    Dependence is the part of the word's probability that goes when that place is taken away, the rest of the image and
    of the answer left as they are (``1 - p_ablated / p_seen``). A function word is as likely without it; so is any word
    whose map is wrong. Focus is ``1 - spread``: an abstract word may need the picture, but no place in it.

    Args:
        maps: ``[T, h, w]``, refined.
        seen: log-probability ``[T]`` of each word's token given the image and all other words.
        ablated: the same without what the word's `hot_cells` hold.
    """
    dependence = 1 - (ablated - seen).exp().clamp(max=1)
    return dependence * (1 - spread(maps))
