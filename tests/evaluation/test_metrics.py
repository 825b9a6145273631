from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcam_fast import ops
from dcam_fast.evaluation.metrics import (
    correlation,
    energy_inside,
    inter_word_correlation,
    otsu_thresholds,
    overlap,
    points_at,
)

GOLDEN = np.load(Path(__file__).parent.parent / "data" / "golden_public.npz")
FIELDS = ("obj_iou", "func_iou", "precision", "recall", "contrast", "contrast_score", "concentration", "f1")


def even_boxes(grid: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    y, x = (torch.linspace(0, side, cells + 1) for side, cells in zip(size, grid, strict=True))
    corners = (x[None, :-1], y[:-1, None], x[None, 1:], y[1:, None])
    return torch.stack([edge.expand(*grid) for edge in corners], -1)


def test_fields_have_the_order_of_the_golden_values() -> None:
    from dcam_fast.evaluation.metrics import Overlap

    assert tuple(f.name for f in dataclasses.fields(Overlap)) == (*FIELDS, "f3_harmonic", "f3_geometric")


@pytest.mark.parametrize("index", range(int(GOLDEN["n_metric"])))
def test_overlap_matches_the_official_code(index: int) -> None:
    grid_map, mask, values = (GOLDEN[f"metric{index}_{name}"] for name in ("map", "mask", "values"))
    pixels = ops.upsample(torch.from_numpy(grid_map)[None], even_boxes(grid_map.shape, mask.shape), mask.shape)
    batch = torch.cat((pixels.flip(1), pixels, torch.zeros_like(pixels)))  # maps do not affect each other
    measured = overlap(batch, torch.from_numpy(mask.astype(np.int64)))
    assert np.array([getattr(measured, f.name)[1].item() for f in dataclasses.fields(measured)]) == pytest.approx(
        values, abs=1e-6
    )


def test_overlap_by_hand() -> None:
    values = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    labels = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 2]])
    other = torch.tensor([[0, 0, 0, 0], [0, 3, 3, 3]])
    measured = overlap(torch.stack((values, values)), torch.stack((labels, other)))
    assert measured.obj_iou.tolist() == pytest.approx([3 / 4, 0])
    assert measured.precision.tolist() == pytest.approx([1, 0])
    assert measured.recall.tolist() == pytest.approx([3 / 4, 0])
    assert measured.func_iou.tolist() == [0, 0]  # the threshold is the lower of two levels
    assert measured.concentration.tolist() == pytest.approx([1, 0], abs=1e-6)
    assert measured.contrast_score.tolist() == [1, 0]
    assert measured.f1.tolist() == pytest.approx([6 / 7, 0])
    assert measured.f3_harmonic.tolist() == pytest.approx([3 / (4 / 3 + 1 + 1), 0], abs=1e-6)
    assert measured.f3_geometric.tolist() == pytest.approx([0.75 ** (1 / 3), 0], abs=1e-6)


def test_contrast_and_concentration_by_hand() -> None:
    measured = overlap(torch.tensor([[[0.8, 0.4], [0.2, 0.1]]]), torch.tensor([[5, 5], [0, 0]]))
    assert measured.contrast.item() == pytest.approx(0.6 / 0.15)
    assert measured.contrast_score.item() == pytest.approx(4 / 20)
    assert measured.concentration.item() == pytest.approx(1.2 / 1.5)


def test_otsu_splits_two_levels() -> None:
    levels = torch.tensor([[10] * 30 + [200] * 10, [0] * 5 + [7] * 35], dtype=torch.uint8)
    first, second = otsu_thresholds(levels).tolist()
    assert 10 <= first < 200
    assert 0 <= second < 7


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**31))
def test_a_batch_equals_its_maps(count: int, height: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(count, height, width, generator=generator)
    labels = torch.randint(0, 3, (count, height, width), generator=generator)
    together = overlap(values, labels)
    for index in range(count):
        alone = overlap(values[index : index + 1], labels[index])
        for name in FIELDS:
            assert getattr(alone, name).item() == pytest.approx(getattr(together, name)[index].item(), abs=1e-9)


def test_empty_masks_and_constant_maps() -> None:
    nothing = torch.zeros(1, 4, 4, dtype=torch.int64)
    empty = overlap(torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0)), nothing)
    assert (empty.obj_iou.item(), empty.contrast.item(), empty.concentration.item(), empty.f3_harmonic.item()) == (
        (0,) * 4
    )
    flat = overlap(torch.zeros(1, 4, 4), nothing + 1)
    assert (flat.obj_iou.item(), flat.concentration.item(), flat.f3_geometric.item()) == (0, 0, 0)
    none = overlap(torch.zeros(0, 4, 4), nothing[:0])
    assert none.obj_iou.shape == (0,)


def test_pointing_by_hand() -> None:
    boxes = even_boxes((2, 3), (10, 12))
    masks = torch.zeros(3, 10, 12, dtype=torch.bool)
    masks[:, 9, 11] = True
    maps = torch.zeros(3, 2, 3)
    maps[0, 1, 2] = maps[1, 0, 2] = 1
    maps[2] = 1
    assert points_at(maps, boxes, masks).tolist() == [True, False, False], "a constant map points nowhere"
    assert points_at(maps[:1], boxes + 0.5, masks[:1]).item(), "a cell touches the pixels that it covers in part"
    one_pixel = points_at(torch.tensor([[[0.0, 1.0]]]), even_boxes((1, 2), (1, 1)), torch.ones(1, 1, 1).bool())
    assert one_pixel.item()


def test_energy_inside_by_hand() -> None:
    values = torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]]])
    assert energy_inside(values, torch.tensor([[False, True]])).tolist() == pytest.approx([0.75, 0])


def test_correlation_by_hand() -> None:
    maps = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 0.0, 1.0], [2.0, 2.0, 2.0], [2.0, 2.0, 2.0]])
    others = torch.tensor([[2.0, 4.0, 6.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    assert correlation(maps, others).tolist() == pytest.approx([1, -1, 0, 1, 0])


def test_inter_word_correlation_by_hand() -> None:
    maps = torch.tensor([[[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]], [[3.0, 2.0, 1.0]], [[1.0, 0.0, 1.0]]])
    # pairs of words for different things: (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)
    assert inter_word_correlation(maps, torch.tensor([0, 0, 1, 2])) == pytest.approx(-2 / 5)
    assert inter_word_correlation(maps[:2], torch.tensor([0, 0])) is None
    assert inter_word_correlation(maps[:2], torch.tensor([0, 1])) == pytest.approx(1)


def test_overlap_checks_shapes() -> None:
    with pytest.raises(
        ValueError, match=r"overlap: labels must be \[T, H, W\] like the maps \[1, 2, 3\].*got \[3, 2\]"
    ):
        overlap(torch.zeros(1, 2, 3), torch.zeros(3, 2, dtype=torch.int64))
