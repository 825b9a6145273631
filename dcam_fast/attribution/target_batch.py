"""`TargetBatch`: the answer positions that passes explain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class TargetBatch:
    """`T` answer positions to explain, each at a canvas.

    Attributes:
        canvases: int64 `[T, L]`, the answer state each target is explained at.
        positions: int64 `[T]`, the targets.
        distractors: int64 `[T]`, the positions that contrastive objectives subtract.
        tokens: int64 `[T]`, the tokens produced at the targets' positions.
        maps: int64 `[T]`, the map that each target contributes to, from 0. Targets of one map have the same canvas, and
            the sum of their objectives is differentiated. None: one map each.
        weights: float32 `[T]`, the factor of each objective in that sum. None: 1.
    """

    canvases: Tensor
    positions: Tensor
    distractors: Tensor
    tokens: Tensor
    maps: Tensor | None = None
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def part(self, rows: slice) -> TargetBatch:
        """Some of the targets, with one map each and without weights."""
        return TargetBatch(self.canvases[rows], self.positions[rows], self.distractors[rows], self.tokens[rows])

    def chunks(self, size: int) -> Iterator[TargetBatch]:
        """The targets, `size` at a time, as `part` gives them."""
        return (self.part(slice(start, start + size)) for start in range(0, len(self), size))

    def __repr__(self) -> str:
        maps = "" if self.maps is None else f", maps={list(self.maps.shape)}"
        return f"TargetBatch(canvases={list(self.canvases.shape)}, positions={list(self.positions.shape)}{maps})"
