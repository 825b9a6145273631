"""Checks of the grids over the image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcam_fast.testing.cases import Case, canvases_at, embedded_case


def check_views(case: Case) -> Iterator[str]:
    """Cells are distinct rows of the image stream, and boxes lie in order on the image."""
    if not case.inputs.views:
        yield "encode: views must be at least one grid, got none"
        return
    rows = embedded_case(case).image.shape[1]
    height, width = case.image.shape[:2]
    for view in case.inputs.views:
        name = f"view {view.name!r}"
        cells, boxes = view.cells, view.boxes
        if cells.ndim != 2 or not cells.numel() or cells.dtype != torch.int64:
            yield f"{name}: cells must be int64 [h, w], got {cells.dtype} {list(cells.shape)}"
            continue
        if int(cells.min()) < 0 or int(cells.max()) >= rows:
            yield (
                f"{name}: cells must be rows of the image stream, 0 to {rows - 1}, got {int(cells.min())} to "
                f"{int(cells.max())}"
            )
        if len(cells.unique()) != cells.numel():
            yield f"{name}: cells must be distinct, got {cells.numel() - len(cells.unique())} that occur twice"
        if boxes.shape != (*cells.shape, 4) or boxes.dtype != torch.float32:
            yield f"{name}: boxes must be float32 {[*cells.shape, 4]}, got {boxes.dtype} {list(boxes.shape)}"
            continue
        x0, y0, x1, y1 = boxes.unbind(-1)
        if not bool((x0 < x1).all() and (y0 < y1).all()):
            yield f"{name}: boxes must be (x0, y0, x1, y1) with x0 < x1 and y0 < y1, got some that are not"
        if bool((x1 <= 0).any() or (y1 <= 0).any() or (x0 >= width).any() or (y0 >= height).any()):
            yield f"{name}: boxes must be pixels of the {height} x {width} image, got some outside it"
        if bool((x0.diff(dim=1) <= 0).any() or (y0.diff(dim=0) <= 0).any()):
            yield f"{name}: boxes must go right along a row and down along a column, got another order"


def check_painted_cells(case: Case) -> Iterator[str]:
    """When a cell's pixels change, that cell's row of layer 0's input must change most."""
    view = case.inputs.views[0]
    h, w = view.cells.shape
    spread = {(0, 0), (0, w - 1), (h - 1, 0), (h - 1, w - 1), (h // 2, w // 3), (h // 3, w // 2)}
    blank = np.full_like(case.image, 128)
    before = _cells_of(case, blank)
    wrong = []
    for row, column in sorted(spread):
        x0, y0, x1, y1 = (round(edge) for edge in view.boxes[row, column].clamp(min=0).tolist())
        painted = blank.copy()
        painted[y0:y1, x0:x1] = np.random.default_rng(1).integers(0, 256, painted[y0:y1, x0:x1].shape)
        change = (_cells_of(case, painted) - before).norm(dim=-1)
        found = divmod(int(change.argmax()), w)
        if not bool(change.isfinite().all()) or float(change.max()) == 0:
            yield f"view {view.name!r}: painting cell {(row, column)} must change its hidden state, got no change"
        elif found != (row, column):
            wrong.append(f"{(row, column)} -> {found}")
    if wrong:
        yield (
            f"view {view.name!r}: the pixels of a cell's box must change that cell's hidden state most, "
            f"got others (painted -> changed): {', '.join(wrong)}"
        )


@torch.no_grad()
def _cells_of(case: Case, image: NDArray[np.uint8]) -> Tensor:
    inputs = case.adapter.encode(image, case.inputs.prompt)
    hidden = case.adapter.embed(inputs, canvases_at(case, "remask"))
    return hidden.image[0, case.inputs.views[0].cells.flatten()].float()
