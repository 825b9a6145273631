"""Localization metrics (section 4.1 of arXiv 2604.11005) and the correlation between the maps of different words.

Every function takes a batch of maps and stays on its device. Maps are compared with masks at the resolution of the mask
(`dcam_fast.ops.upsample`); no metric resizes anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Overlap:
    """The metrics of T maps, float64 `[T]` each, in 0..1 except `contrast`, which is a ratio.

    Attributes:
        obj_iou: best intersection over union of the map, binarized at Otsu's threshold, with one label of the mask.
        func_iou: share of the pixels below the threshold.
        precision, recall: of the label that gave `obj_iou`.
        contrast: mean inside any label divided by the mean outside.
        contrast_score: `min(contrast / 20, 1)`.
        concentration: share of the map's total inside any label; see `energy_inside`.
        f1: harmonic mean of precision and recall.
        f3_harmonic, f3_geometric: means of obj_iou, contrast_score and concentration.
    """

    obj_iou: Tensor
    func_iou: Tensor
    precision: Tensor
    recall: Tensor
    contrast: Tensor
    contrast_score: Tensor
    concentration: Tensor
    f1: Tensor
    f3_harmonic: Tensor
    f3_geometric: Tensor


def otsu_thresholds(levels: Tensor) -> Tensor:
    """Otsu's threshold (Otsu 1979), int64 `[T]`, of each map of 8-bit levels `[T, ...]`.

    The threshold is the level k that maximizes the variance between the pixels up to k and those above.
    """
    flat = levels.flatten(1).long()
    counts = torch.zeros(len(flat), 256, dtype=torch.float64, device=flat.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float64))
    share = counts / counts.sum(1, keepdim=True)
    below = share.cumsum(1)
    moment = (share * torch.arange(256, dtype=torch.float64, device=flat.device)).cumsum(1)
    between = (moment[:, -1:] * below - moment) ** 2 / (below * (1 - below))
    return torch.where(between.isfinite(), between, -1.0).argmax(1)


def to_levels(values: Tensor) -> Tensor:
    """Maps in 0..1 as 8-bit levels, uint8, rounded down."""
    return (values * 255).clamp(0, 255).to(torch.uint8)


def energy_inside(values: Tensor, masks: Tensor) -> Tensor:
    """Share of the total of each map inside its mask: the energy-based pointing game (Wang et al. 2020).

    Args:
        values: maps `[T, H, W]`, not negative.
        masks: bool `[T, H, W]` or `[H, W]`.

    Returns:
        float64 `[T]`; 0 for an empty map.

    Example:
        >>> energy_inside(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[False, True]])).round(decimals=3).tolist()
        [0.75]
    """
    values = values.double()
    return (values * masks).sum((1, 2)) / (values.sum((1, 2)) + 1e-8)


def overlap(values: Tensor, labels: Tensor) -> Overlap:
    """Compares maps with label masks.

    Args:
        values: maps `[T, H, W]` in 0..1.
        labels: integer `[T, H, W]`, or `[H, W]` for all maps; 0 is unlabeled.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> overlap(torch.tensor([[[1.0, 0.0, 0.0]]]), torch.tensor([[1, 1, 0]])).obj_iou.tolist()
        [0.5]
    """
    if values.dim() != 3 or labels.shape not in (values.shape, values.shape[1:]):
        raise ValueError(
            f"overlap: labels must be [T, H, W] like the maps {list(values.shape)}, or [H, W], got {list(labels.shape)}"
        )
    values, labels = values.double(), labels.expand(values.shape)
    levels = to_levels(values)
    thresholds = otsu_thresholds(levels)[:, None, None]
    binary = levels > thresholds
    iou, precision, recall = (values.new_zeros(len(values)) for _ in range(3))
    for label in labels.unique().tolist():
        if label == 0:
            continue
        mask = labels == label
        intersection, union = (binary & mask).sum((1, 2)), (binary | mask).sum((1, 2))
        candidate = intersection / union.clamp(min=1).double()
        better = candidate > iou
        iou = torch.where(better, candidate, iou)
        precision = torch.where(better, intersection / binary.sum((1, 2)).clamp(min=1).double(), precision)
        recall = torch.where(better, intersection / mask.sum((1, 2)).clamp(min=1).double(), recall)
    inside = labels != 0
    contrast = _mean_where(values, inside) / (_mean_where(values, ~inside) + 1e-8)
    score = (contrast / 20).clamp(max=1)
    concentration = energy_inside(values, inside)
    return Overlap(
        obj_iou=iou,
        func_iou=(levels < thresholds).double().mean((1, 2)),
        precision=precision,
        recall=recall,
        contrast=contrast,
        contrast_score=score,
        concentration=concentration,
        f1=_harmonic(precision, recall),
        f3_harmonic=_harmonic(iou, score, concentration),
        f3_geometric=(iou * score * concentration) ** (1 / 3),
    )


def _mean_where(values: Tensor, masks: Tensor) -> Tensor:
    """Mean of each map inside its mask; 0 for an empty mask."""
    return (values * masks).sum((1, 2)) / masks.sum((1, 2)).clamp(min=1)


def _harmonic(*values: Tensor) -> Tensor:
    stacked = torch.stack(values)
    mean = len(values) / (1 / stacked).sum(0)
    return torch.where(stacked.amin(0) > 0, mean, 0.0)


def points_at(maps: Tensor, boxes: Tensor, masks: Tensor) -> Tensor:
    """The pointing game (Zhang et al. 2018): whether the strongest cell of each map overlaps its mask.

    Args:
        maps: `[T, h, w]`. A constant map points nowhere.
        boxes: `[h, w, 4]`, pixels (x0, y0, x1, y1) of each cell.
        masks: bool `[T, H, W]`.

    Returns:
        bool `[T]`.
    """
    flat = maps.flatten(1)
    height, width = masks.shape[1:]
    x0, y0, x1, y1 = boxes.view(-1, 4)[flat.argmax(1)].unbind(1)
    left, right = x0.long().clamp(0, width), x1.ceil().long().clamp(0, width)
    top, bottom = y0.long().clamp(0, height), y1.ceil().long().clamp(0, height)
    row = torch.arange(height, device=masks.device)[None, :, None]
    column = torch.arange(width, device=masks.device)[None, None]
    cell = (row >= top.view(-1, 1, 1)) & (row < bottom.view(-1, 1, 1))
    cell = cell & (column >= left.view(-1, 1, 1)) & (column < right.view(-1, 1, 1))
    return (cell & masks).flatten(1).any(1) & (flat.amax(1) > flat.amin(1))


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson correlation over the cells of pairs of maps `[T, ...]`, float64 `[T]`.

    It is 1 if both maps are constant, and 0 if one of them is.
    """
    first, second = (maps.flatten(1).double() for maps in (first, second))
    first, second = (maps - maps.mean(1, keepdim=True) for maps in (first, second))
    energies = first.square().sum(1), second.square().sum(1)
    varied = torch.stack(energies) > 1e-20
    pearson = (first * second).sum(1) / (energies[0] * energies[1]).clamp(min=1e-40).sqrt()
    return torch.where(varied.all(0), pearson, (~varied).all(0).double())


def inter_word_correlation(maps: Tensor, region_index: Tensor) -> float | None:
    """Mean correlation between the maps of words that name different regions; lower is better.

    Args:
        maps: `[T, h, w]`.
        region_index: int64 `[T]`, the region that each word names.

    Returns:
        The mean over pairs of words, 1 if all maps are equal; None if all words name the same region.
    """
    first, second = torch.triu_indices(len(maps), len(maps), 1, device=maps.device)
    differ = region_index[first] != region_index[second]
    if not bool(differ.any()):
        return None
    return correlation(maps[first[differ]], maps[second[differ]]).mean().item()
