"""`Explanation`: what a model answered about an image, and a map for each target of the answer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex

from PIL import Image

from dcam_fast.explained_answer import ExplainedAnswer
from dcam_fast.output import files, html, pictures
from dcam_fast.torch_modes import own_modes


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(ExplainedAnswer):
    """An answer, its targets and their maps, to draw, save and load.

    The attributes are those of `ExplainedAnswer`.

    Example:
        >>> from dcam_fast import Explainer, sample_image
        >>> explanation = Explainer.from_pretrained("tiny").explain(sample_image())
        >>> list(explanation) == list(explanation.names)
        True
        >>> name, map = next(explanation.items())
        >>> map.shape
        torch.Size([16, 16])
        >>> explanation[name].equal(map)
        True
        >>> explanation.overlay(name).size
        (128, 128)
    """

    @own_modes()
    def overlay(self, target: str | SupportsIndex, *, colormap: str = "turbo", alpha: float = 0.5) -> Image.Image:
        """The map of a target in color over the image, at the image's size; see `dcam_fast.ops.overlay`.

        Args:
            target: a name or index; see `find`.
            colormap: the name of a matplotlib colormap.
            alpha: opacity of the map, 0 to 1.

        Raises:
            ValueError: for an unknown target or colormap, or an `alpha` outside 0 to 1.
        """
        index = self.find(target)
        return pictures.overlays(self, self.image, [index], colormap=colormap, alpha=alpha)[0]

    @own_modes()
    def contact_sheet(self, *, colormap: str = "turbo", alpha: float = 0.5) -> Image.Image:
        """The answer, the image and one overlay for each target with its groundedness, in one picture.

        Raises:
            ValueError: for an unknown colormap, or an `alpha` outside 0 to 1.
        """
        return pictures.contact_sheet([self], colormap=colormap, alpha=alpha)

    @own_modes()
    def to_html(self) -> str:
        """A self-contained HTML page. Pointing at a word shows its map."""
        return html.to_html(self)

    def _repr_html_(self) -> str:
        return html.to_iframe(self)

    def show(self) -> None:
        """Displays the page in a notebook.

        Raises:
            RuntimeError: if IPython is not installed.
        """
        try:
            from IPython.display import HTML, display  # type: ignore[import-not-found]
        except ImportError as error:
            raise RuntimeError(
                "Explanation.show: needs IPython, which notebooks provide; elsewhere use save()"
            ) from error
        display(HTML(self._repr_html_()))

    @own_modes()
    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes the explanation into a folder, completely or not at all. An earlier save there is replaced.

        The folder gets explanation.html, contact_sheet.png, one `<nn>-<word>.png` for each target, image.png,
        explanation.json (`"schema": 1`) and maps.npz (`maps`, `raw_maps`, `boxes`). An existing folder keeps its mode
        and owner. Files are replaced one by one, explanation.json last.

        Returns:
            The path.

        Raises:
            TypeError: if `folder` is not a path.
            FileExistsError: if it is a file, or a folder that holds anything else.
            OSError: if it cannot be written to.
        """
        return files.save(self, _path(folder, "save"))

    @classmethod
    @own_modes()
    def load(cls, folder: str | os.PathLike[str]) -> Explanation:
        """The explanation that `save` wrote, on the CPU.

        Raises:
            TypeError: if `folder` is not a path.
            FileNotFoundError: if it holds no saved explanation.
            ValueError: if a file is damaged. The message names it.
        """
        return cls(**files.read(_path(folder, "load")))


def _path(folder: object, caller: str) -> Path:
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"Explanation.{caller}: folder must be a path, got {type(folder).__name__}")
    return Path(folder)
