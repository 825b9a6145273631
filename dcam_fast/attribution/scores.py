"""Scores of a map: how focused it is, and whether the word depends on the place that it points at."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def peak(maps: Tensor) -> Tensor:
    """Share of each map `[T, h, w]` that its strongest cell holds, `[T]` in 0..1. 0 for an empty map."""
    flat = maps.flatten(1)
    return flat.amax(1) / flat.sum(1).clamp(min=1e-8)


def spread(maps: Tensor) -> Tensor:
    """Share of the cells that each map `[T, h, w]` is spread over, `[T]` in 0..1.

    It is the exponential of the map's entropy over the number of cells: 1 for an even map and `1 / N` for a single
    cell. An empty map points nowhere and has 1.
    """
    share = maps.flatten(1) / maps.flatten(1).sum(1, keepdim=True).clamp(min=1e-8)
    perplexity = torch.special.entr(share).sum(1).exp()
    return torch.where(share.sum(1) > 0, perplexity / share.shape[1], 1.0)


def hot_cells(maps: Tensor) -> Tensor:
    """The place that each map `[T, h, w]` points at, bool `[T, h, w]`.

    These are the cells of at least a tenth of the maximum and their neighbors: an edge that remained would still show
    an object's color. An empty map has no such cells.
    """
    strongest = maps.flatten(1).amax(1).view(-1, 1, 1)
    hot = maps > (0.1 * strongest).clamp(min=1e-6)
    return F.max_pool2d(hot[:, None].float(), 3, 1, 1)[:, 0] > 0


def groundedness(maps: Tensor, visible: Tensor, ablated: Tensor) -> Tensor:
    """Whether each word depends on the place that its map points at, `[T]` in 0..1: dependence times focus.

    Dependence is the share of the word's probability that is lost when that place is removed and everything else
    stays: `1 - p_ablated / p_visible`. It is low for function words, and for words whose map is wrong. Focus is
    `1 - spread`: an abstract word may depend on the image but on no place in it.

    Args:
        maps: `[T, h, w]`, refined.
        visible: log-probability `[T]` of each word given the whole image and all other words.
        ablated: the same without the word's `hot_cells`.
    """
    dependence = 1 - (ablated - visible).exp().clamp(max=1)
    return dependence * (1 - spread(maps))
