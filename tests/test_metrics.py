"""The metrics against values computed by the reference implementation, and on cases worked out by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from dcam_fast import ops
from dcam_fast.evaluation.metrics import otsu_threshold, overlap, points_at

GOLDEN = np.load(Path(__file__).parent / "data" / "golden_public.npz")


def even_boxes(grid: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    y, x = (torch.linspace(0, side, cells + 1) for side, cells in zip(size, grid, strict=True))
    corners = (x[None, :-1], y[:-1, None], x[None, 1:], y[1:, None])
    return torch.stack([edge.expand(*grid) for edge in corners], -1)


@pytest.mark.parametrize("index", range(int(GOLDEN["n_metric"])))
def test_golden(index: int) -> None:
    grid_map, mask, values = (GOLDEN[f"metric{index}_{name}"] for name in ("map", "mask", "values"))
    pixels = ops.upsample(torch.from_numpy(grid_map)[None], even_boxes(grid_map.shape, mask.shape), mask.shape)[0]
    measured = overlap(pixels, torch.from_numpy(mask.astype(np.int64)))
    assert np.array(dataclasses.astuple(measured)) == pytest.approx(values, abs=1e-6)


def test_by_hand() -> None:
    values = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    labels = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 2]])
    measured = overlap(values, labels)
    assert measured.obj_iou == pytest.approx(3 / 4)
    assert measured.precision == pytest.approx(1)
    assert measured.recall == pytest.approx(3 / 4)
    assert measured.concentration == pytest.approx(1, abs=1e-6)
    assert measured.contrast_score == 1
    assert measured.f3_harmonic == pytest.approx(3 / (4 / 3 + 1 + 1), abs=1e-6)


def test_otsu_splits_two_levels() -> None:
    levels = torch.tensor([10] * 30 + [200] * 10, dtype=torch.uint8)
    assert 10 <= otsu_threshold(levels) < 200


def test_empty_mask_and_flat_map() -> None:
    empty = overlap(torch.rand(4, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(4, 4, dtype=torch.int64))
    assert (empty.obj_iou, empty.contrast, empty.concentration, empty.f3_harmonic) == (0, 0, 0, 0)
    flat = overlap(torch.zeros(4, 4), torch.ones(4, 4, dtype=torch.int64))
    assert (flat.obj_iou, flat.concentration, flat.f3_geometric) == (0, 0, 0)


def test_pointing() -> None:
    boxes = even_boxes((2, 3), (10, 12))
    mask = torch.zeros(10, 12, dtype=torch.bool)
    mask[9, 11] = True
    pointing = torch.zeros(2, 3)
    pointing[1, 2] = 1
    assert points_at(pointing, boxes, mask)
    assert not points_at(pointing.flip(1), boxes, mask)
    assert not points_at(torch.ones(2, 3), boxes, mask), "a constant map points nowhere"


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"overlap: labels must be \(2, 3\) like the map, got \(3, 2\)"):
        overlap(torch.zeros(2, 3), torch.zeros(3, 2, dtype=torch.int64))
