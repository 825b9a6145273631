"""Masks in COCO's formats: polygons and run lengths, compressed or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dcam_fast.json_entries import Entry

BEYOND: Final = 1.0  # pixels by which a corner may lie outside the image, because annotation tools round
_NEED: Final = "polygons or run lengths of the image"
_LONGEST: Final = 13  # characters of a compressed run length, which hold 64 bits


def import_pycocotools() -> Any:
    """The module `pycocotools.mask`.

    Raises:
        ImportError: if it is not installed; the message names the extra.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError(
            "decode: pycocotools must be installed to read COCO's polygons: pip install 'dcam_fast[eval]'"
        ) from error
    return mask


def decode(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of a segmentation, bool `[H, W]`. Everything is checked before it reaches native code.

    Args:
        segmentation: a list of polygons `[x, y, x, y, ...]`, or a dict of run lengths with `size` and `counts` (a list
            or COCO's string). Polygons of fewer than three corners are empty. An `Entry` is named by errors.
        size: height and width.

    Raises:
        ValueError: for any other value.
        ImportError: for polygons if pycocotools (the extra `eval`) is not installed.

    Example:
        >>> decode({"size": [2, 2], "counts": [1, 3]}, (2, 2)).tolist()
        [[False, True], [True, True]]
    """
    entry = segmentation if isinstance(segmentation, Entry) else Entry(segmentation, "decode", "segmentation")
    if isinstance(entry.value, dict):
        return _from_runs(entry, size)
    if isinstance(entry.value, list):
        return _from_polygons(entry, size)
    raise entry.error(_NEED)


def union(segmentations: Sequence[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The union of segmentations, bool `[H, W]`."""
    mask = np.zeros(size, bool)
    for segmentation in segmentations:
        mask |= decode(segmentation, size)
    return mask


def _from_polygons(entry: Entry, size: tuple[int, int]) -> NDArray[np.bool_]:
    height, width = size
    polygons = [_polygon(polygon, size) for polygon in entry.list()]
    shapes = [polygon for polygon in polygons if len(polygon) >= 6]
    if not shapes:
        return np.zeros(size, bool)
    tools = import_pycocotools()
    return np.asarray(tools.decode(tools.merge(tools.frPyObjects(shapes, height, width))), dtype=bool)


def _polygon(entry: Entry, size: tuple[int, int]) -> list[float]:
    """The coordinates x, y, x, y, ... of a polygon, checked to lie in the image."""
    coordinates = [coordinate.number() for coordinate in entry.list()]
    if len(coordinates) % 2:
        raise entry.error(f"{_NEED}: x, y, x, y, ...", f"{len(coordinates)} numbers")
    height, width = size
    for index, coordinate in enumerate(coordinates):
        limit = height if index % 2 else width
        if not -BEYOND <= coordinate <= limit + BEYOND:
            axis = "y" if index % 2 else "x"
            raise entry.error(f"{_NEED}: {axis} from 0 to {limit}", f"{axis} = {coordinate:g}")
    return coordinates


def _from_runs(entry: Entry, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Runs are column-major, and the first is of zeros."""
    height, width = size
    if not {"size", "counts"} <= set(entry.value):
        raise entry.error(_NEED)
    stored, counts = entry.value["size"], entry.value["counts"]
    if stored != [height, width] and stored != (height, width):
        raise entry.error(_NEED, f"size {stored} for an image of {[height, width]}")
    lengths = _uncompressed(entry) if isinstance(counts, str | bytes) else counts
    if not isinstance(lengths, list) or not all(type(length) is int and length >= 0 for length in lengths):
        raise entry.error(_NEED)
    if sum(lengths) != height * width:
        raise entry.error(_NEED, f"run lengths of {sum(lengths)} pixels for an image of {height * width}")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(width, height).T.copy()


def _uncompressed(entry: Entry) -> list[int]:
    """The run lengths of COCO's string.

    A character holds 5 bits of a number, lowest first. Bit 32 is set if another character follows; bit 16 of the last
    character is the sign. From the fourth number on, each is a difference to the number two before it.
    """
    counts = entry.value["counts"]
    text = counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        if not 0 <= bits < 64 or shift >= 5 * _LONGEST:
            raise entry.error(_NEED, f"a string with {chr(character)!r} in it or a number too large")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    if shift:
        raise entry.error(_NEED, "a string that ends within a number")
    return lengths
