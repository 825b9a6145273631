"""How well a map fits the mask of what its word names (the paper's section 4.1; the pointing game is Zhang et al.
2018).

Maps come at the mask's resolution (`dcam_fast.ops.upsample`), so that no metric resizes anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Overlap:
    """The measures of one map. All are shares in 0..1, but ``contrast``, which is a ratio.

    Attributes:
        obj_iou: best intersection over union of the thresholded map with one label of the mask.
        func_iou: share of pixels under the threshold.
        precision, recall: of the label that gave ``obj_iou``.
        contrast: mean inside any label over mean outside.
        contrast_score: ``min(contrast / 20, 1)``.
        concentration: share of the total activation inside any label.
        f1: harmonic mean of precision and recall.
        f3_harmonic, f3_geometric: means of obj_iou, contrast_score and concentration.
    """

    obj_iou: float
    func_iou: float
    precision: float
    recall: float
    contrast: float
    contrast_score: float
    concentration: float
    f1: float
    f3_harmonic: float
    f3_geometric: float


def otsu_threshold(levels: Tensor) -> int:
    """Otsu's threshold of a map of 8-bit levels: the level that best separates what is at most it from what is
    above."""
    share = torch.bincount(levels.flatten().long(), minlength=256).double()
    share = share / share.sum()
    below, moment = share.cumsum(0), (share * torch.arange(256, dtype=torch.float64, device=share.device)).cumsum(0)
    between = (moment[-1] * below - moment) ** 2 / (below * (1 - below))
    return int(torch.where(between.isfinite(), between, -1.0).argmax())


def to_levels(values: Tensor) -> Tensor:
    """A map in 0..1 as 8-bit levels, rounded down, uint8."""
    return (values * 255).clamp(0, 255).to(torch.uint8)


def overlap(values: Tensor, labels: Tensor) -> Overlap:
    """Compares a map ``[H, W]`` in 0..1 with a mask of labels, integer ``[H, W]``, 0 where there is none.

    Raises ValueError where the shapes differ.
    """
    if values.shape != labels.shape:
        raise ValueError(f"overlap: labels must be {tuple(values.shape)} like the map, got {tuple(labels.shape)}")
    values = values.double()
    levels = to_levels(values)
    threshold = otsu_threshold(levels)
    bright = levels > threshold
    iou = precision = recall = 0.0
    for label in labels.unique().tolist():
        if label == 0:
            continue
        mask = labels == label
        both = (bright & mask).sum().item()
        candidate = both / max((bright | mask).sum().item(), 1)
        if candidate > iou:
            iou, precision, recall = candidate, both / bright.sum().item(), both / mask.sum().item()
    inside = labels != 0
    mean_in = values[inside].mean().item() if inside.any() else 0.0
    mean_out = values[~inside].mean().item() if (~inside).any() else 0.0
    contrast = mean_in / (mean_out + 1e-8)
    score = min(contrast / 20, 1.0)
    concentration = values[inside].sum().item() / (values.sum().item() + 1e-8)
    return Overlap(
        obj_iou=iou,
        func_iou=(levels < threshold).double().mean().item(),
        precision=precision,
        recall=recall,
        contrast=contrast,
        contrast_score=score,
        concentration=concentration,
        f1=_harmonic(precision, recall),
        f3_harmonic=_harmonic(iou, score, concentration),
        f3_geometric=(iou * score * concentration) ** (1 / 3),
    )


def _harmonic(*values: float) -> float:
    return len(values) / sum(1 / value for value in values) if min(values) > 0 else 0.0


def strongest_cell(grid_map: Tensor) -> tuple[int, int] | None:
    """Row and column of the strongest cell of a map ``[h, w]``; None for a constant map, which points nowhere."""
    if not bool(grid_map.max() > grid_map.min()):
        return None
    row, column = divmod(int(grid_map.argmax()), grid_map.shape[1])
    return row, column


def points_at(grid_map: Tensor, boxes: Tensor, mask: Tensor) -> bool:
    """The pointing game: whether the strongest cell of ``[h, w]`` touches the mask ``bool[H, W]`` (boxes: ``[h, w,
    4]``)."""
    cell = strongest_cell(grid_map)
    if cell is None:
        return False
    x0, y0, x1, y1 = boxes[cell].tolist()
    height, width = mask.shape
    return bool(mask[max(int(y0), 0) : min(-int(-y1 // 1), height), max(int(x0), 0) : min(-int(-x1 // 1), width)].any())
