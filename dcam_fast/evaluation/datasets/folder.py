"""A plain folder: for each image NAME.jpg (or .png, ...) a mask NAME.mask.png and a text NAME.txt."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcam_fast.evaluation.datasets.matching import spoken_parts
from dcam_fast.evaluation.datasets.sample import BaseDataset, Region, Sample, load_annotated
from dcam_fast.images import ImageError, open_image
from dcam_fast.json_entries import Entry

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class ImageFolder(BaseDataset):
    """The images of a folder, sorted by name.

    A mask has one channel: 0 is unlabeled, and k is the region that line k of the text names. A line has words and
    phrases separated by commas: `dog, puppy`. A label that does not occur in the mask is not a region. Masks and texts
    are checked when a sample is read.

    Args:
        folder: the folder.

    Raises:
        FileNotFoundError: if the folder does not exist or has no image, or if the mask or text of an image is missing.
        ValueError: if two images differ only in their ending.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"ImageFolder: folder must exist, got '{folder}'")
        self._images = sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in ENDINGS and not path.name.lower().endswith(".mask.png")
        )
        if not self._images:
            raise FileNotFoundError(
                f"ImageFolder: folder must hold images ({', '.join(ENDINGS)}), got '{folder}' without"
            )
        for path in self._images:
            for ending in (".mask.png", ".txt"):
                if not path.with_suffix(ending).is_file():
                    raise FileNotFoundError(
                        f"ImageFolder: '{path.name}' must have a file '{path.with_suffix(ending).name}' next to it"
                    )
        for former, path in pairwise(self._images):
            if former.stem == path.stem:
                raise ValueError(f"ImageFolder: '{path.name}' must have a unique name, got also '{former.name}'")

    def __len__(self) -> int:
        return len(self._images)

    def load(self, index: int) -> Sample:
        path = self._images[index]
        labels = _read_labels(path.with_suffix(".mask.png"))
        text = path.with_suffix(".txt")
        try:
            lines = text.read_text("utf-8-sig").removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"ImageFolder: text must be UTF-8, got '{text}'") from error
        if labels.max() > len(lines):
            raise ValueError(
                f"ImageFolder: '{text.name}' must have a line for label {labels.max()}, got {len(lines)} lines"
            )
        regions = []
        for label, line in enumerate(lines, 1):
            terms = tuple(filter(None, (" ".join(spoken_parts(term)[0]) for term in line.split(","))))
            mask = labels == label
            if terms and mask.any():
                regions.append(Region(terms[0], mask, terms=terms))
        image = load_annotated(path, labels.shape, Entry(path.name, "ImageFolder", f"'{path.name}'"))
        return Sample(path.stem, image, None, "", tuple(regions))


def _read_labels(path: Path) -> NDArray[np.int64]:
    try:
        labels = np.asarray(open_image(path))
    except ImageError as error:
        raise ValueError(f"ImageFolder: mask must be a picture, got '{path}': {error}") from error
    if labels.ndim != 2:
        raise ValueError(f"ImageFolder: mask must have one channel, got '{path}' with {labels.shape[2]}")
    if labels.dtype.kind not in "bui" or labels.min() < 0:
        raise ValueError(
            f"ImageFolder: mask must hold labels from 0, got '{path}' of {labels.dtype} from {labels.min()}"
        )
    return labels.astype(np.int64)
