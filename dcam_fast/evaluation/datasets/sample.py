"""One image with its annotated regions, and the base class of all datasets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from dcam_fast.images import exif_orientation, load_image
from dcam_fast.json_entries import Entry

Dataset = Sequence["Sample"]  # what the runner takes; a sample is read when it is indexed, and not cached


@dataclass(frozen=True, eq=False)
class Region:
    """An object in an image, or all objects of one category.

    Attributes:
        name: the name in the annotation.
        mask: bool `[H, W]`, the pixels of the region, at least one.
        spans: (start, end) characters of the sample's caption that name it.
        terms: lower-case words and phrases that name it in any other text.
    """

    name: str
    mask: NDArray[np.bool_]
    spans: tuple[tuple[int, int], ...] = ()
    terms: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Region({self.name!r}, mask=bool{list(self.mask.shape)}, spans={self.spans}, terms={self.terms})"


@dataclass(frozen=True, eq=False)
class Sample:
    """An image, what to ask about it, and its annotated regions.

    Attributes:
        id: unique in the dataset.
        image: uint8 `[H, W, 3]`.
        prompt: the question; None asks for a caption with the model's default prompt.
        caption: the reference caption; empty if the sample has no caption.
        regions: the annotated regions.
        compounds: lower-case phrases that mean something else than their words do: a `hot dog` is not a dog.

    Raises:
        ValueError: if a mask does not have the size of the image.

    Example:
        >>> import numpy as np
        >>> mask = np.zeros((4, 6), bool)
        >>> mask[:2, :2] = True
        >>> Sample("0", np.zeros((4, 6, 3), np.uint8), None, "", (Region("dog", mask, terms=("dog", "puppy")),))
        Sample('0', image=uint8[4, 6, 3], prompt=None, caption='', regions=1)
    """

    id: str
    image: NDArray[np.uint8]
    prompt: str | None
    caption: str
    regions: tuple[Region, ...]
    compounds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for region in self.regions:
            if region.mask.shape != self.image.shape[:2]:
                raise ValueError(
                    f"Sample: mask of {region.name!r} in {self.id} must be {list(self.image.shape[:2])} like the "
                    f"image, got {list(region.mask.shape)}"
                )

    def __repr__(self) -> str:
        shape = f"uint8{list(self.image.shape)}"
        return (
            f"Sample({self.id!r}, image={shape}, prompt={self.prompt!r}, caption={self.caption!r}, "
            f"regions={len(self.regions)})"
        )


class BaseDataset(Sequence[Sample]):
    """Indexing and slicing for datasets that implement `__len__` and `load`."""

    @abstractmethod
    def load(self, index: int) -> Sample:
        """The sample at an index from 0 to `len(self) - 1`."""

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self.load(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"{type(self).__name__}: index must be from {-len(self)} to {len(self) - 1}, got {index}")
        return self.load(index % len(self))


def load_annotated(path: Path, size: tuple[int, int] | None, entry: Entry) -> NDArray[np.uint8]:
    """The image of an annotation.

    Args:
        path: the image file.
        size: height and width in the annotation; None where it has none.
        entry: the annotation, named by errors.

    Returns:
        uint8 `[H, W, 3]`.

    Raises:
        ValueError: if the image has another size, or if its EXIF orientation turns it and keeps its size. In the
            second case the masks may have been drawn on either version.
    """
    image, orientation = load_image(path), exif_orientation(path)
    height, width = image.shape[:2]
    if size not in (None, (height, width)):
        turned = "" if orientation == 1 else ", turned by its EXIF orientation"
        raise entry.error(f"an image of {size} (height, width)", f"'{path}' of {(height, width)}{turned}")
    if orientation in (2, 3, 4) or (orientation != 1 and height == width):
        raise entry.error("an image that is stored upright", f"'{path}', turned by its EXIF orientation")
    return image


def find_folder(root: Path, names: Sequence[str], caller: str) -> Path:
    """The first of the folders `names` that exists in `root`.

    Raises:
        FileNotFoundError: if none of them exists.
    """
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise FileNotFoundError(f"{caller}: folder must hold {' or '.join(names)}, got '{root}' without")
