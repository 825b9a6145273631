"""`Explanation`: what a model answered about an image, and for each target of the answer the map of where it looked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex

from PIL import Image

from dcam_fast.explained import ExplainedAnswer
from dcam_fast.modes import own_modes
from dcam_fast.output import files, html, pictures


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(ExplainedAnswer):
    """An answer, its targets and their maps, which can be drawn, saved and loaded.

    Example:
        >>> from dcam_fast import Explainer, sample_image
        >>> explanation = Explainer.from_pretrained("tiny").explain(sample_image())
        >>> sorted(explanation) == sorted(explanation.names)
        True
        >>> explanation[explanation.names[0]].shape
        torch.Size([16, 16])
    """

    @own_modes()
    def overlay(self, target: str | SupportsIndex, *, colormap: str = "turbo", alpha: float = 0.5) -> Image.Image:
        """The map of a target in color over the image, at the image's size; see `dcam_fast.ops.overlay`."""
        index = self.find(target)
        return pictures.overlays(self, self.image, [index], colormap=colormap, alpha=alpha)[0]

    @own_modes()
    def contact_sheet(self, *, colormap: str = "turbo", alpha: float = 0.5) -> Image.Image:
        """The answer, the image and one overlay per target with its groundedness, in one picture."""
        return pictures.contact_sheet([self], colormap=colormap, alpha=alpha)

    @own_modes()
    def to_html(self) -> str:
        """A page on its own, needing nothing from elsewhere, on which a word that is pointed at shows its map."""
        return html.to_html(self)

    def _repr_html_(self) -> str:
        return html.to_iframe(self)

    def show(self) -> None:
        """Displays the page in a notebook."""
        try:
            from IPython.display import HTML, display  # type: ignore[import-not-found]
        except ImportError as error:
            raise RuntimeError("Explanation.show: needs IPython, as notebooks have it; elsewhere use save()") from error
        display(HTML(self._repr_html_()))

    @own_modes()
    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes all of it into a folder, whole or not at all; an earlier save there is replaced.

        The folder gets explanation.html, contact_sheet.png, one `<nn>-<word>.png` per target, image.png,
        explanation.json ("schema": 1) and maps.npz (maps, raw_maps, boxes). A folder that exists stays, with its mode
        and owner; the files take their places one by one, explanation.json last. Returns the path.

        Raises:
            TypeError: `folder` is no path.
            FileExistsError: it is a file, or a folder with anything else in it.
            OSError: of the kind that occurred, naming the folder, where it cannot be written to.
        """
        return files.save(self, _path(folder, "save"))

    @classmethod
    @own_modes()
    def load(cls, folder: str | os.PathLike[str]) -> Explanation:
        """What `save` wrote, on the CPU.

        Raises:
            TypeError: `folder` is no path.
            FileNotFoundError: it holds no save.
            ValueError: naming what is damaged.
        """
        return cls(**files.read(_path(folder, "load")))


def _path(folder: object, caller: str) -> Path:
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"Explanation.{caller}: folder must be a path, got {type(folder).__name__}")
    return Path(folder)
