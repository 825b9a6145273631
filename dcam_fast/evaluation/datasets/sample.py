"""One image with the things in it that words can name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcam_fast.entries import Entry
from dcam_fast.images import exif_orientation, load_image

Dataset = Sequence["Sample"]  # a sample is read when it is asked for, and nobody keeps it


@dataclass(frozen=True, eq=False)
class Region:
    """A thing in an image, or all the things of one category.

    Attributes:
        name: what the annotation calls it.
        mask: bool ``[H, W]``, its pixels, at least one.
        spans: (start, end) characters of the sample's caption that name it.
        terms: words and phrases in lower case that name it in any other text.
    """

    name: str
    mask: NDArray[np.bool_]
    spans: tuple[tuple[int, int], ...] = ()
    terms: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Sample:
    """Attributes:
        id: unique in the dataset.
        image: uint8 ``[H, W, 3]``.
        prompt: what to ask; None: the model's own request for a caption.
        caption: the reference, empty where there is none.
        regions: what has a mask.
        compounds: phrases in lower case whose words name something else than they do alone: a ``hot dog`` is no dog.

    Raises ValueError where a mask does not fit the image.
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


def load_annotated(path: Path, size: tuple[int, int] | None, entry: Entry) -> NDArray[np.uint8]:
    """The image that an annotation is about.

    Args:
        path: its file.
        size: height and width by the annotation; None where it does not say.
        entry: the annotation, which errors name.

    Raises ValueError where the image has another size, and where its EXIF orientation turns it but not its size, so
    that nobody knows whether its masks were drawn before or after.
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
    """The first of the folders ``names`` in ``root``. FileNotFoundError where there is none of them."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise FileNotFoundError(f"{caller}: folder must hold {' or '.join(names)}, got '{root}' without")
