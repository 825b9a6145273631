"""Masks in COCO's formats: polygons and run lengths, compressed or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def need_tools() -> Any:
    """pycocotools' module of masks. Raises ImportError, naming the extra, where it is not installed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError(
            "datasets: pycocotools must be installed to read masks in COCO's formats: pip install 'dcam_fast[eval]'"
        ) from error
    return mask


def decode(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A segmentation as bool ``[H, W]`` of ``size``: a list of polygons ``[x, y, x, y, ...]``, or a dict of run lengths
    with ``size`` and ``counts`` (a list, or COCO's string). Polygons of fewer than three corners enclose nothing.

    Raises ValueError for anything else, and ImportError naming the extra without pycocotools.
    """
    tools = need_tools()
    height, width = size
    try:
        if isinstance(segmentation, dict):
            if list(segmentation["size"]) != [height, width]:
                raise ValueError(f"size {list(segmentation['size'])} for an image of {[height, width]}")
            counts = segmentation["counts"]
            if isinstance(counts, list) and (sum(counts) != height * width or min(counts, default=0) < 0):
                raise ValueError(f"run lengths of {sum(counts)} pixels for an image of {height * width}")
            runs = tools.frPyObjects(segmentation, height, width) if isinstance(counts, list) else segmentation
            return np.asarray(tools.decode(runs), dtype=bool)
        if not isinstance(segmentation, list):
            raise ValueError(f"{type(segmentation).__name__} {segmentation!r}")
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
        if not polygons:
            return np.zeros(size, bool)
        return np.asarray(tools.decode(tools.merge(tools.frPyObjects(polygons, height, width))), dtype=bool)
    except Exception as error:  # what pycocotools raises for damaged input is anything
        got = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"datasets: segmentation must be polygons or run lengths of the image, got {got}") from error


def union(segmentations: Sequence[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels of any of some segmentations, bool ``[H, W]``."""
    mask = np.zeros(size, bool)
    for segmentation in segmentations:
        mask |= decode(segmentation, size)
    return mask
