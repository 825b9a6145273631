"""Datasets of images with masks for the named regions: synthetic scenes, COCO Caption, GranDf, and plain folders."""

from __future__ import annotations

from pathlib import Path

from dcam_fast.evaluation.datasets.coco import CocoCaptions
from dcam_fast.evaluation.datasets.folder import ImageFolder
from dcam_fast.evaluation.datasets.grandf import GranDf
from dcam_fast.evaluation.datasets.sample import BaseDataset, Dataset, Region, Sample
from dcam_fast.evaluation.datasets.synthetic import Scenes

__all__ = [
    "FORMATS",
    "BaseDataset",
    "CocoCaptions",
    "Dataset",
    "GranDf",
    "ImageFolder",
    "Region",
    "Sample",
    "Scenes",
    "open_dataset",
]

# The class that reads each kind of folder, by its name in `--data NAME:FOLDER`.
FORMATS = {"coco": CocoCaptions, "grandf": GranDf, "folder": ImageFolder}


def open_dataset(name: str, *, limit: int, seed: int) -> Dataset:
    """A dataset by the name that `--data` takes.

    Args:
        name: `"scenes"`, `"hard-scenes"`, `"coco:FOLDER"`, `"grandf:FOLDER"` or `"folder:FOLDER"`.
        limit: number of scenes; the other datasets have all samples of their folder.
        seed: of the scenes.

    Raises:
        ValueError: for another name, and for annotations that cannot be read.
        FileNotFoundError: if a file is missing; the message names it.
        ImportError: if an extra is missing; the message names it.

    Example:
        >>> len(open_dataset("hard-scenes", limit=3, seed=0))
        3
    """
    kind, _, folder = name.partition(":")
    if name in ("scenes", "hard-scenes"):
        if limit < 1:
            raise ValueError(f"open_dataset: limit must be from 1, got {limit}")
        return Scenes(limit, seed, hard=name == "hard-scenes")
    if kind not in FORMATS or not folder:
        known = ", ".join(f"{kind}:FOLDER" for kind in FORMATS)
        raise ValueError(f"open_dataset: name must be scenes, hard-scenes, {known}, got {name!r}")
    return FORMATS[kind](Path(folder))
