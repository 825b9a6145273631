"""LLaVA's "anyres" images: which pixels of the photo each image token covers.

The photo is scaled to fit one of a few canvases of square tiles, centered on black (a letterbox), and cut into tiles.
The vision tower runs on each tile separately. The grids of the tiles are put together again, without the rows or
columns that are all letterbox, and each row ends in a newline token. The base view, the whole photo resized to one
tile, comes first.

A tower with patches of 14 pixels covers 378 of a tile's 384, so there can be gaps between neighboring cells.
"""

from __future__ import annotations

import ast
import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dcam_fast.models.adapter import AdapterError, ImageView, boxes_between

SHRINKS_ABOVE = 1.1  # a grid is interpolated if a side has more than this many times the budget's cells


@dataclass(frozen=True)
class Grid:
    """The cells of a photo on its canvas.

    Attributes:
        side: cells along a tile.
        full: rows and columns of all tiles together.
        trimmed: rows and columns that are removed at the top and left, and as many at the bottom and right.
        kept: rows and columns that remain.
        shape: rows and columns of tokens: those kept, or fewer where the grid was over the budget and interpolated.
    """

    side: int
    full: tuple[int, int]
    trimmed: tuple[int, int]
    kept: tuple[int, int]
    shape: tuple[int, int]

    @property
    def tokens(self) -> int:
        """Number of tokens of the base view and of the grid with its newlines."""
        return self.side**2 + self.shape[0] * (self.shape[1] + 1)


@dataclass(frozen=True)
class Anyres:
    """How a model tiles its images.

    Attributes:
        canvases: (width, height) in pixels of every canvas.
        tile: side of a tile in pixels.
        patch: side of the tower's patches in pixels.
        budget: a grid with more cells than this many tiles have is interpolated (None: never).
    """

    canvases: tuple[tuple[int, int], ...]
    tile: int
    patch: int
    budget: int | None = None

    @classmethod
    def from_config(cls, config: Any, tile: int, patch: int) -> Anyres:
        """From a config with `image_aspect_ratio`, `image_grid_pinpoints` and `mm_patch_merge_type`.

        Args:
            config: the model's.
            tile: side of a tile in pixels.
            patch: side of the tower's patches in pixels.

        Raises:
            AdapterError: for images that are tiled in another way.
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
        """The (width, height) of the canvas for a photo of `size` (width, height): the one that keeps most of its
        pixels, and of several the one with the smallest letterbox."""
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
        """The grid of a photo of `size` (width, height) with `side` cells along a tile.

        Raises:
            AdapterError: for a photo too narrow for one row of cells.
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
        """The views `"grid"` and `"base"` of a photo.

        Args:
            size: (width, height) of the photo.
            grid: of the photo.
            start: row of the photo's first token in the image stream.
            device: of the views.
        """
        n, (h, w) = grid.side, grid.shape
        base = torch.arange(n * n).view(n, n) + start
        rows = torch.arange(h)[:, None] * (w + 1)  # a row of tokens ends in a newline
        cells = start + n * n + rows + torch.arange(w)
        return (
            ImageView("grid", cells.to(device), self._grid_boxes(size, grid).to(device)),
            ImageView("base", base.to(device), self._base_boxes(size, n).to(device)),
        )

    def _base_boxes(self, size: tuple[int, int], side: int) -> Tensor:
        edges = torch.arange(side + 1, dtype=torch.float64) * self._covered / side
        x, y = (edges * (length / self.tile) for length in size)
        return boxes_between((x[:-1], x[1:]), (y[:-1], y[1:]))

    def _grid_boxes(self, size: tuple[int, int], grid: Grid) -> Tensor:
        canvas, resized = self.canvas(size), self.resized(size)
        sides = []
        for edge, axis in ((0, 1), (1, 0)):  # columns along the width, rows along the height
            offset = (canvas[edge] - resized[edge]) // 2
            starts, ends = self._edges(grid, axis)
            scale = size[edge] / resized[edge]
            sides.append(((starts - offset) * scale, (ends - offset) * scale))
        return boxes_between(*sides)

    @property
    def _covered(self) -> int:
        """How much of a tile's side the tower covers, in pixels."""
        return self.tile // self.patch * self.patch

    def _edges(self, grid: Grid, axis: int) -> tuple[Tensor, Tensor]:
        """Where rows (`axis` 0) or columns (1) of the grid start and end on the canvas, in pixels."""
        count, n = grid.shape[axis], grid.side
        edges = torch.arange(count + 1, dtype=torch.float64) * grid.kept[axis] / count + grid.trimmed[axis]
        starts, ends = edges[:-1], edges[1:]
        first, last = (
            (starts / n).floor(),
            (ends / n).ceil() - 1,
        )  # a cell that ends at a seam belongs to the tile before
        cell = self._covered / n
        return first * self.tile + (starts - first * n) * cell, last * self.tile + (ends - last * n) * cell


def _canvases(pinpoints: Any, tile: int) -> tuple[tuple[int, int], ...]:
    """Canvases from a list of (width, height), such a list as text, or a range of tile counts such as
    `"(1x1),...,(6x6)"`."""
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
