"""A plain folder: for each image NAME.jpg (or .png, ...) a mask NAME.mask.png and a text NAME.txt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from dcam_fast.entries import Entry
from dcam_fast.evaluation.datasets.matching import spoken_parts
from dcam_fast.evaluation.datasets.sample import Region, Sample, load_annotated
from dcam_fast.images import ImageError, open_image

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class ImageFolder(Sequence[Sample]):
    """The mask is a picture of one channel: 0 is nothing, k is the thing that line k of the text names, by words and
    phrases with commas between them: ``dog, puppy``. A label that the mask does not hold is no region."""

    def __init__(self, folder: Path) -> None:
        """Raises FileNotFoundError for a folder that is not there or holds no image, and for a mask or text that an
        image lacks."""
        if not folder.is_dir():
            raise FileNotFoundError(f"folder: folder must exist, got '{folder}'")
        self._images = sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in ENDINGS and not path.name.lower().endswith(".mask.png")
        )
        if not self._images:
            raise FileNotFoundError(f"folder: folder must hold images ({', '.join(ENDINGS)}), got '{folder}' without")
        for path in self._images:
            for ending in (".mask.png", ".txt"):
                if not path.with_suffix(ending).is_file():
                    raise FileNotFoundError(
                        f"folder: '{path.name}' must have a file '{path.with_suffix(ending).name}' beside it, got none"
                    )
        for former, path in pairwise(self._images):
            if former.stem == path.stem:
                raise ValueError(f"folder: '{path.name}' must have a name of its own, got '{former.name}' beside it")

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        path = self._images[index]
        labels = _read_labels(path.with_suffix(".mask.png"))
        text = path.with_suffix(".txt")
        try:
            lines = text.read_text("utf-8-sig").removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"folder: text must be UTF-8, got '{text}'") from error
        if labels.max() > len(lines):
            raise ValueError(f"folder: '{text.name}' must have a line for label {labels.max()}, got {len(lines)} lines")
        regions = []
        for label, line in enumerate(lines, 1):
            terms = tuple(filter(None, (" ".join(spoken_parts(term)[0]) for term in line.split(","))))
            mask = labels == label
            if terms and mask.any():
                regions.append(Region(terms[0], mask, terms=terms))
        image = load_annotated(path, labels.shape, Entry(path.name, "folder", f"'{path.name}'"))
        return Sample(path.stem, image, None, "", tuple(regions))


def _read_labels(path: Path) -> NDArray[np.int64]:
    try:
        labels = np.asarray(open_image(path))
    except ImageError as error:
        raise ValueError(f"folder: mask must be a picture, got '{path}': {error}") from error
    if labels.ndim != 2:
        raise ValueError(f"folder: mask must have one channel, got '{path}' with {labels.shape[2]}")
    if labels.dtype.kind not in "bui" or labels.min() < 0:
        raise ValueError(f"folder: mask must hold labels from 0, got '{path}' of {labels.dtype} from {labels.min()}")
    return labels.astype(np.int64)
