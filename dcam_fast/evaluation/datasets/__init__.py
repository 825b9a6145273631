"""Images whose named things have masks: synthetic scenes, COCO Caption, GranDf, and any folder of one's own."""

from __future__ import annotations

from pathlib import Path

from dcam_fast.evaluation.datasets.coco import CocoCaptions
from dcam_fast.evaluation.datasets.folder import ImageFolder
from dcam_fast.evaluation.datasets.grandf import GranDf
from dcam_fast.evaluation.datasets.sample import Dataset, Region, Sample
from dcam_fast.evaluation.datasets.synthetic import Scenes

__all__ = ["CocoCaptions", "Dataset", "GranDf", "ImageFolder", "Region", "Sample", "Scenes", "open_dataset"]

_FOLDERS = {"coco": CocoCaptions, "grandf": GranDf, "folder": ImageFolder}


def open_dataset(name: str, *, limit: int, seed: int) -> Dataset:
    """A dataset by name: ``"scenes"``, ``"hard-scenes"``, ``"coco:FOLDER"``, ``"grandf:FOLDER"`` or
    ``"folder:FOLDER"``.

    Args:
        limit: how many scenes there are; the others have as many samples as they have.
        seed: of the scenes.

    Raises:
        ValueError: for another name, and for annotations that cannot be read.
        FileNotFoundError: naming the file that is missing.
        ImportError: naming the extra that is.
    """
    kind, _, folder = name.partition(":")
    if name in ("scenes", "hard-scenes"):
        if limit < 1:
            raise ValueError(f"evaluate: limit must be from 1, got {limit}")
        return Scenes(limit, seed, hard=name == "hard-scenes")
    if kind not in _FOLDERS or not folder:
        known = ", ".join(f"{kind}:FOLDER" for kind in _FOLDERS)
        raise ValueError(f"evaluate: data must be scenes, hard-scenes, {known}, got {name!r}")
    return _FOLDERS[kind](Path(folder))
