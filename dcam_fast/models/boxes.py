"""The pixels that cells cover, where columns and rows are independent."""

from __future__ import annotations

import torch
from torch import Tensor


def boxes_between(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> Tensor:
    """Boxes float32 `[h, w, 4]` from the left and right edges `[w]` of columns and the top and bottom edges `[h]` of
    rows, in pixels."""
    h, w = len(y[0]), len(x[0])
    corners = (x[0][None], y[0][:, None], x[1][None], y[1][:, None])
    return torch.stack([corner.expand(h, w) for corner in corners], -1).float()


def even_boxes(size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Boxes float32 `[h, w, 4]` of the cells of a `grid` (h, w) that divides an image of `size` (height, width) evenly.

    >>> even_boxes((8, 6), (2, 1)).tolist()
    [[[0.0, 0.0, 6.0, 4.0]], [[0.0, 4.0, 6.0, 8.0]]]
    """
    y, x = (torch.linspace(0, side, count + 1) for side, count in zip(size, grid, strict=True))
    return boxes_between((x[:-1], x[1:]), (y[:-1], y[1:]))
