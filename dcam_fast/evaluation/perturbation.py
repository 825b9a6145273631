"""Deletion and insertion (Petsiuk et al. 2018): how much of a word's probability goes with the strongest cells of its
map, and how much they alone bring back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcam_fast.attribution.by_word import mean_by_word, positions_of, word_index
from dcam_fast.attribution.engine import log_probabilities
from dcam_fast.attribution.methods.gradient_cam import build_targets
from dcam_fast.attribution.target_batch import TargetBatch
from dcam_fast.models.adapter import Adapter, ImageView, Inputs, Trajectory, Word
from dcam_fast.modes import own_modes

SHARES = (1 / 64, 1 / 8)  # of the cells: 4 and 32 of a grid of 16 x 16
BATCH = 16  # images in one forward pass
TIES = 0  # seed of the order of equally strong cells


@dataclass(frozen=True)
class Curves:
    """Probabilities of T words at K shares of the cells, from 0 to 1.

    Attributes:
        shares: ``[K]``, ascending, 0 and 1 included.
        deletion: float32 ``[T, K]``, the strongest cells painted over.
        insertion: float32 ``[T, K]``, everything else painted over.
    """

    shares: Tensor
    deletion: Tensor
    insertion: Tensor

    @property
    def deletion_area(self) -> Tensor:
        """Area under the deletion curve, ``[T]`` in 0..1; lower is better."""
        return torch.trapezoid(self.deletion, self.shares, dim=1)

    @property
    def insertion_area(self) -> Tensor:
        """Area under the insertion curve, ``[T]`` in 0..1; higher is better."""
        return torch.trapezoid(self.insertion, self.shares, dim=1)


def by_strength(maps: Tensor) -> Tensor:
    """Cells of each map ``[T, h, w]`` from the strongest to the weakest, int64 ``[T, h w]``. Equally strong ones come
    in random order, which is the same for all maps, for the first row of an image is no better than the last."""
    flat = maps.flatten(1)
    shuffled = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(TIES)).to(flat.device)
    return shuffled[flat[:, shuffled].argsort(dim=1, descending=True, stable=True)]


class Perturbation:
    """The perturbations of one image and some words of one answer. A word's probability is the geometric mean of those
    of its tokens, each at the state that it was committed at."""

    @own_modes()
    def __init__(
        self,
        adapter: Adapter[Any],
        inputs: Inputs,
        trajectory: Trajectory,
        words: Sequence[Word],
        shares: Sequence[float] = SHARES,
        batch: int = BATCH,
    ) -> None:
        """
        Args:
            shares: of the cells to paint, ascending, over 0 and under 1.
            batch: images that share a forward pass.

        Raises ValueError for shares that are not.
        """
        if list(shares) != sorted(set(shares)) or not all(0 < share < 1 for share in shares):
            raise ValueError(f"perturb: shares must be ascending, over 0 and under 1, got {tuple(shares)}")
        self.adapter, self.inputs, self.words, self.batch = adapter, inputs, tuple(words), batch
        self.shares = tuple(shares)
        positions = positions_of(words).to(adapter.device)
        self.targets = build_targets(trajectory, positions, "committed", adapter.mask_token)
        self.view: ImageView = inputs.views[0]
        self.boxes = self.view.boxes.view(-1, 4).round().long().tolist()
        self.paint = np.median(inputs.image.reshape(-1, 3), axis=0).astype(np.uint8)
        self.seen = self._probability(log_probabilities(adapter, inputs, self.targets))
        blank = adapter.encode(np.broadcast_to(self.paint, inputs.image.shape).copy(), inputs.prompt)
        self.blank = self._probability(log_probabilities(adapter, blank, self.targets))

    @own_modes()
    def curves(self, maps: Tensor) -> Curves:
        """Deletion and insertion by maps ``[T, h, w]``, one for each word."""
        order = by_strength(maps).cpu()
        owners = word_index(self.words).tolist()
        counts = [max(round(share * order.shape[1]), 1) for share in self.shares]
        images = []
        for cells in order:
            for count in counts:
                strongest = self._pixels(cells[:count].tolist())[..., None]
                images.append(np.where(strongest, self.paint, self.inputs.image))
                images.append(np.where(strongest, self.inputs.image, self.paint))
        versions = 2 * len(counts)
        wanted = [(owner * versions + version, row) for row, owner in enumerate(owners) for version in range(versions)]
        left = self._run(images, wanted).view(len(owners), len(counts), 2)
        left = self._probability(left)
        ends = self.seen[:, None], self.blank[:, None]
        return Curves(
            shares=torch.tensor([0.0, *self.shares, 1.0], device=left.device),
            deletion=torch.cat((ends[0], left[..., 0], ends[1]), 1),
            insertion=torch.cat((ends[1], left[..., 1], ends[0]), 1),
        )

    def _probability(self, log_probabilities: Tensor) -> Tensor:
        """Tokens' ``[tokens, ...]`` to words' ``[T, ...]``."""
        return mean_by_word(log_probabilities, self.words).exp()

    def _pixels(self, cells: list[int]) -> NDArray[np.bool_]:
        mask = np.zeros(self.inputs.image.shape[:2], bool)
        for cell in cells:
            x0, y0, x1, y1 = self.boxes[cell]
            mask[y0:y1, x0:x1] = True
        return mask

    def _run(self, images: list[NDArray[np.uint8]], wanted: list[tuple[int, int]]) -> Tensor:
        """Log-probabilities ``[len(wanted)]``, each of (an image, a token). An image that several tokens ask for runs
        once for all of them; the others run together, ``batch`` at a time."""
        left = self.view.boxes.new_zeros(len(wanted))
        places: dict[bytes, list[int]] = {}
        for place, (image, _) in enumerate(wanted):
            places.setdefault(images[image].tobytes(), []).append(place)
        rows = torch.tensor([row for _, row in wanted], device=left.device, dtype=torch.int64)

        def encode(place: int) -> Inputs:
            return self.adapter.encode(images[wanted[place][0]], self.inputs.prompt)

        for shared in (of for of in places.values() if len(of) > 1):
            left[shared] = log_probabilities(self.adapter, encode(shared[0]), self._rows(rows[shared]))
        alone = [of[0] for of in places.values() if len(of) == 1]
        for start in range(0, len(alone), self.batch):
            part = alone[start : start + self.batch]
            for joined, some in self.adapter.batched([encode(place) for place in part]):
                left[part[some]] = log_probabilities(self.adapter, joined, self._rows(rows[part[some]]))
        return left

    def _rows(self, rows: Tensor) -> TargetBatch:
        of = self.targets
        return TargetBatch(of.canvases[rows], of.positions[rows], of.distractors[rows], of.tokens[rows])
