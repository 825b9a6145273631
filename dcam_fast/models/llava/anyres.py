"""LLaVA's "anyres" images: which pixels of the photo each image token stands for.

The photo is scaled to fit one of a few canvases made of square tiles, centerd there on black (a letterbox), and cut
into tiles; the vision tower reads every tile on its own. The grids of the tiles are put together again, the rows or
columns that are all letterbox are taken away, and a newline token is added behind every row. In front of all that goes
the base view, the whole photo squashed into one tile.

A tower of patches of 14 pixels sees 378 of a tile's 384, so neighboring cells can have a gap between them.
"""

from __future__ import annotations

import ast
import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dcam_fast.models.adapter import AdapterError, ImageView

SHRINKS_ABOVE = 1.1  # times as many cells along a side as the budget has room for


@dataclass(frozen=True)
class Grid:
    """The cells of a photo on its canvas.

    Attributes:
        side: cells along a tile.
        full: rows and columns of all tiles together.
        trimmed: rows and columns that were taken away at the top and at the left, and as many opposite.
        kept: rows and columns that are left.
        shape: rows and columns of tokens: those kept, or fewer where they were over the budget and were interpolated.
    """

    side: int
    full: tuple[int, int]
    trimmed: tuple[int, int]
    kept: tuple[int, int]
    shape: tuple[int, int]

    @property
    def tokens(self) -> int:
        """Of the grid with its newlines and of the base view."""
        return self.side**2 + self.shape[0] * (self.shape[1] + 1)


@dataclass(frozen=True)
class Anyres:
    """How a model tiles its images.

    Attributes:
        canvases: (width, height) in pixels of every canvas there is.
        tile: side of a tile in pixels.
        patch: side of the tower's patches in pixels.
        budget: how many tiles' worth of cells a grid may have before it is interpolated; None: any number.
    """

    canvases: tuple[tuple[int, int], ...]
    tile: int
    patch: int
    budget: int | None = None

    @classmethod
    def from_config(cls, config: Any, tile: int, patch: int) -> Anyres:
        """Of a model whose config has ``image_aspect_ratio``, ``image_grid_pinpoints`` and ``mm_patch_merge_type``.

        Raises:
            AdapterError: for images that are not tiled like this.
        """
        kind = str(getattr(config, "image_aspect_ratio", None))
        merge = str(getattr(config, "mm_patch_merge_type", None))
        found = re.fullmatch(r"anyres(?:_max_(\d+))?", kind)
        if not found or merge != "spatial_unpad":
            raise AdapterError(
                "load: image_aspect_ratio must be anyres or anyres_max_N and mm_patch_merge_type spatial_unpad, "
                f"got {kind} and {merge}"
            )
        budget = None if found[1] is None else int(found[1])
        return cls(_canvases(config.image_grid_pinpoints, tile), tile, patch, budget)

    def canvas(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (width, height) of the canvas for a photo of ``size`` (width, height): the one that keeps most of its
        pixels, and of several the one with the least room to spare."""
        w, h = size

        def merit(canvas: tuple[int, int]) -> tuple[int, int]:
            scale = min(canvas[0] / w, canvas[1] / h)
            used = min(int(w * scale) * int(h * scale), w * h)
            return used, used - canvas[0] * canvas[1]

        return max(self.canvases, key=merit)

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (width, height) of the photo on its canvas."""
        (w, h), (canvas_w, canvas_h) = size, self.canvas(size)
        if canvas_w / w < canvas_h / h:
            return canvas_w, min(math.ceil(h * (canvas_w / w)), canvas_h)
        return min(math.ceil(w * (canvas_h / h)), canvas_w), canvas_h

    def grid(self, size: tuple[int, int], side: int) -> Grid:
        """The grid of a photo of ``size`` (width, height) with ``side`` cells along a tile.

        Raises:
            AdapterError: for a photo so long and narrow that nothing of it is left.
        """
        w, h = size
        columns, rows = (edge // self.tile * side for edge in self.canvas(size))
        across = down = 0
        if w / h > columns / rows:
            down = (rows - int(h * (columns / w))) // 2
        else:
            across = (columns - int(w * (rows / h))) // 2
        kept = rows - 2 * down, columns - 2 * across
        if 0 in kept:
            raise AdapterError(f"encode: image must be wide and high enough for a row of cells, got {w} x {h} pixels")
        shape = kept
        if self.budget is not None:
            times = math.sqrt(kept[0] * kept[1] / (self.budget * side**2))
            if times > SHRINKS_ABOVE:
                shape = int(kept[0] // times), int(kept[1] // times)
        return Grid(side, (rows, columns), (down, across), kept, shape)

    def views(self, size: tuple[int, int], grid: Grid, start: int, device: torch.device) -> tuple[ImageView, ImageView]:
        """The views ``"grid"`` and ``"base"`` of a photo of ``size`` (width, height) whose first token is at row
        ``start`` of the image stream."""
        n, (h, w) = grid.side, grid.shape
        base = torch.arange(n * n).view(n, n) + start
        rows = torch.arange(h)[:, None] * (w + 1)  # one more than the row is wide: the newline
        cells = start + n * n + rows + torch.arange(w)
        return (
            ImageView("grid", cells.to(device), self._grid_boxes(size, grid).to(device)),
            ImageView("base", base.to(device), self._base_boxes(size, n).to(device)),
        )

    def _base_boxes(self, size: tuple[int, int], side: int) -> Tensor:
        edges = torch.arange(side + 1, dtype=torch.float64) * self._covered / side
        x, y = (edges * (length / self.tile) for length in size)
        return _boxes((x[:-1], x[1:]), (y[:-1], y[1:]))

    def _grid_boxes(self, size: tuple[int, int], grid: Grid) -> Tensor:
        canvas, resized = self.canvas(size), self.resized(size)
        sides = []
        for edge, axis in ((0, 1), (1, 0)):  # columns along the width, rows along the height
            offset = (canvas[edge] - resized[edge]) // 2
            starts, ends = self._edges(grid, axis)
            scale = size[edge] / resized[edge]
            sides.append(((starts - offset) * scale, (ends - offset) * scale))
        return _boxes(*sides)

    @property
    def _covered(self) -> int:
        """How much of a tile's side the tower sees, in pixels."""
        return self.tile // self.patch * self.patch

    def _edges(self, grid: Grid, axis: int) -> tuple[Tensor, Tensor]:
        """Where rows (``axis`` 0) or columns (1) of the grid start and end on the canvas, in pixels."""
        count, n = grid.shape[axis], grid.side
        edges = torch.arange(count + 1, dtype=torch.float64) * grid.kept[axis] / count + grid.trimmed[axis]
        starts, ends = edges[:-1], edges[1:]
        first, last = (starts / n).floor(), (ends / n).ceil() - 1  # a cell ends in the tile in front of the seam
        cell = self._covered / n
        return first * self.tile + (starts - first * n) * cell, last * self.tile + (ends - last * n) * cell


def _boxes(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> Tensor:
    h, w = len(y[0]), len(x[0])
    corners = (x[0][None], y[0][:, None], x[1][None], y[1][:, None])
    return torch.stack([corner.expand(h, w) for corner in corners], -1).float()


def _canvases(pinpoints: Any, tile: int) -> tuple[tuple[int, int], ...]:
    """A list of (width, height), such a list as text, or a range of tile counts such as ``"(1x1),...,(6x6)"``."""
    if isinstance(pinpoints, str) and "x" in pinpoints:
        counts = [(int(a), int(b)) for a, b in re.findall(r"\((\d+)x(\d+)\)", pinpoints)]
        if not counts:
            raise AdapterError(f"load: image_grid_pinpoints must be canvases, got {pinpoints!r}")
        (a0, b0), (a1, b1) = counts[0], counts[-1]
        return tuple((a * tile, b * tile) for a in range(a0, a1 + 1) for b in range(b0, b1 + 1))
    try:
        pairs = ast.literal_eval(pinpoints) if isinstance(pinpoints, str) else pinpoints
        return tuple((int(a), int(b)) for a, b in pairs)
    except (ValueError, TypeError, SyntaxError) as error:
        raise AdapterError(f"load: image_grid_pinpoints must be canvases, got {pinpoints!r}") from error
