"""Segmentations in COCO's formats, valid and invalid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from annotations import SQUARE, compressed, needs_extra, run_lengths, square

from dcam_fast.evaluation.datasets.masks import decode

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own


@needs_extra
def test_decode_reads_all_three_formats() -> None:
    mask = square(7, 9)
    assert np.array_equal(decode([SQUARE], (7, 9)), mask)
    assert np.array_equal(decode({"size": [7, 9], "counts": run_lengths(mask)}, (7, 9)), mask)
    assert np.array_equal(decode(compressed(mask), (7, 9)), mask)
    assert not decode([], (7, 9)).any()
    assert not decode([[1.0, 1.0, 4.0, 4.0]], (7, 9)).any(), "two corners are not a polygon"
    assert decode({"size": [1, 1], "counts": [0, 1]}, (1, 1)).tolist() == [[True]]


@needs_extra
@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [7, 8], "counts": [56]},
        {"size": [7, 9], "counts": [10, 10]},
        {"size": [7, 9], "counts": [70, -7]},
        {"counts": [63]},
        {"size": [7, 9], "counts": 5},
        {"size": [7, 9], "counts": None},
        {"size": [7, 9], "counts": ["63"]},
        {"size": [7, 9], "counts": [63.0]},
        {"size": [7, 9], "counts": [True] * 63},
        {"size": [7, 9], "counts": ""},
        {"size": [7, 9], "counts": "no run \u00e9"},
        {"size": [7, 9], "counts": "\udce9"},
        {"size": [3, 5], "counts": "\udce9"},  # as "?" it would be right
        {"size": [7, 9], "counts": b"\xff\x00"},
        {"size": [7, 9], "counts": "o" * 1000},
        {"size": [7, 9], "counts": "o"},
        {"size": [7, 9], "counts": "_1" * 3},
        {"size": [7, 9], "counts": "O1"},
        {"size": ["7", 9], "counts": [63]},
        {"size": None, "counts": [63]},
        {"size": [9, 7], "counts": [63]},
        {"size": [7, 9]},
        {},
        "polygon",
        7,
        None,
    ],
)
def test_decode_rejects_invalid_segmentations(segmentation: Any) -> None:
    size = (3, 5) if segmentation == {"size": [3, 5], "counts": "\udce9"} else (7, 9)
    with pytest.raises(ValueError, match="decode: segmentation must be polygons or run lengths of the image, got"):
        decode(segmentation, size)


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([0, 0, 5, 0, 5], r"segmentation\[0\] must be .*: x, y, x, y, ..., got 5 numbers"),
        ([0, 0, 2e8, 0, 5, 5], r"segmentation\[0\] must be .*: x from 0 to 9, got x = 2e\+08"),
        ([0, -2.5, 5, 0, 5, 5], r"segmentation\[0\] must be .*: y from 0 to 7, got y = -2.5"),
        ([0, 0, 5, 0, 5, float("nan")], r"segmentation\[0\]\[5\] must be a finite number, got nan"),
        ([0, 0, float("inf"), 0, 5, 5], r"segmentation\[0\]\[2\] must be a finite number, got inf"),
        ([0, 0, 10**400, 0, 5, 5], r"segmentation\[0\]\[2\] must be a finite number, got 1000"),
        ([0, 0, "5", 0, 5, 5], r"segmentation\[0\]\[2\] must be a finite number, got '5'"),
        ([0, 0, True, 0, 5, 5], r"segmentation\[0\]\[2\] must be a finite number, got True"),
        ([[0, 0, 5, 0, 5, 5]], r"segmentation\[0\]\[0\] must be a finite number, got \[0, 0"),
        ({"x": 1}, r"segmentation\[0\] must be a list, got"),
        (None, r"segmentation\[0\] must be a list, got None"),
        (3.5, r"segmentation\[0\] must be a list, got 3.5"),
    ],
)
def test_decode_rejects_invalid_polygons(polygon: Any, message: str) -> None:
    """They are checked without pycocotools."""
    with pytest.raises(ValueError, match=f"^decode: {message}"):
        decode([polygon], (7, 9))


@needs_extra
def test_polygons_may_reach_the_border() -> None:
    assert decode([[-0.5, 0, 9.5, 0, 9.5, 7.5, -0.5, 7.5]], (7, 9)).all()


@needs_extra
def test_run_lengths_agree_with_pycocotools() -> None:
    from pycocotools import mask as coco_masks

    rng = np.random.default_rng(0)
    for _ in range(200):
        mask = rng.random(rng.integers(1, 40, 2)) < rng.random()
        encoded = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert np.array_equal(decode(encoded, mask.shape), mask)
        assert np.array_equal(decode({"size": list(mask.shape), "counts": run_lengths(mask)}, mask.shape), mask)
