"""What a model reads and computes: the encoded image and prompt, and the hidden states between layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcam_fast.images import cell_colors
from dcam_fast.models.trajectory import TensorFields


@dataclass(frozen=True)
class ImageView(TensorFields):
    """One grid of cells over the image.

    Attributes:
        name: `"image"`, or the view's name where a model has several (`"base"`, `"grid"`).
        cells: int64 `[h, w]`, the row of `Hidden.image` that holds each cell. The rows need not be contiguous: a model
            may have newline tokens, tiles or interleaved tokens.
        boxes: float32 `[h, w, 4]`, the pixels `(x0, y0, x1, y1)` of the original image that each cell covers.
        picture: index of the picture that the view belongs to, for a model that gets several.
    """

    name: str
    cells: Tensor
    boxes: Tensor
    picture: int = 0


@dataclass(frozen=True)
class Inputs(TensorFields):
    """An encoded image and prompt. Each adapter extends it with what its layers need.

    Attributes:
        image: uint8 `[H, W, 3]`, the original.
        prompt: the text.
        views: the grids over the image, the default one first.
        side: shorter side in pixels of the image as the model processes it, after resizing.
    """

    image: NDArray[np.uint8]
    prompt: str
    views: tuple[ImageView, ...]
    side: int

    @cached_property
    def colors(self) -> Tensor:
        """Mean color of each cell of the default view, float32 `[3, h, w]` in 0..1, on the view's device."""
        boxes = self.views[0].boxes
        return cell_colors(self.image, boxes).to(boxes.device)

    @cached_property
    def image_rows(self) -> Tensor:
        """The rows of `Hidden.image` that hold the image, int64 `[n]`: the cells of each view and what lies between
        them, such as newline tokens."""
        spans = [torch.arange(int(cells.min()), int(cells.max()) + 1) for cells in (view.cells for view in self.views)]
        return torch.cat(spans).unique().to(self.views[0].cells.device)


@dataclass(frozen=True)
class Hidden(TensorFields):
    """Hidden states between two layers, for `C` canvases at once.

    Attributes:
        image: `[C, S, D]`, or `[1, S, D]` while it does not depend on the canvas: the stream that holds the image
            cells. With joint attention this is the whole sequence; with a cached prefix it is the prefix.
        canvas: `[C, L, D]` where the answer is a separate stream, else None.
    """

    image: Tensor
    canvas: Tensor | None = None

    def split(self) -> Hidden:
        """The same states as a new leaf: detached, one image stream per canvas, the image requiring gradients."""
        image = self.image
        if self.canvas is not None and len(image) != len(self.canvas):
            image = image.expand(len(self.canvas), -1, -1)
        return Hidden(image.detach().requires_grad_(), None if self.canvas is None else self.canvas.detach())

    def answer(self, length: int) -> Tensor:
        """The last `length` rows, `[C, length, D]`, of the stream that holds the answer."""
        return (self.image if self.canvas is None else self.canvas)[:, -length:]


def rows_at(states: Tensor, rows: Tensor) -> Tensor:
    """The rows `[C, R, D]` of `states`, `[C, N, D]`, with the indices `rows`, int64 `[C, R]`.

    >>> rows_at(torch.arange(6.0).view(1, 3, 2), torch.tensor([[2, 0]])).tolist()
    [[[4.0, 5.0], [0.0, 1.0]]]
    """
    return states.gather(1, rows[..., None].expand(-1, -1, states.shape[-1]))
