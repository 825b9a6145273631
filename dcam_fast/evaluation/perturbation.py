"""Deletion and insertion (Petsiuk et al. 2018).

Deletion masks the strongest cells of a map, which should lower the word's probability most. Insertion keeps only these
cells, which should preserve it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcam_fast.attribution.by_word import mean_by_word, positions_of, word_index
from dcam_fast.attribution.methods.gradient_cam import build_targets
from dcam_fast.attribution.probabilities import log_probabilities
from dcam_fast.attribution.target_batch import TargetBatch
from dcam_fast.models.adapter import Adapter, ImageView, Inputs, Trajectory, Word
from dcam_fast.torch_modes import own_modes

SHARES = (1 / 64, 1 / 8)  # of the cells: 4 and 32 of a grid of 16 x 16
BATCH_SIZE = 16  # images in one forward pass
TIE_SEED = 0  # of the random order of equally strong cells


@dataclass(frozen=True)
class Curves:
    """Probabilities of T words at K shares of the cells, from 0 to 1.

    Attributes:
        shares: `[K]`, ascending, 0 and 1 included.
        deletion: float32 `[T, K]`, with the strongest cells masked.
        insertion: float32 `[T, K]`, with all other cells masked.
    """

    shares: Tensor
    deletion: Tensor
    insertion: Tensor

    @property
    def deletion_area(self) -> Tensor:
        """Area under the deletion curve, `[T]` in 0..1; lower is better."""
        return torch.trapezoid(self.deletion, self.shares, dim=1)

    @property
    def insertion_area(self) -> Tensor:
        """Area under the insertion curve, `[T]` in 0..1; higher is better."""
        return torch.trapezoid(self.insertion, self.shares, dim=1)


def by_strength(maps: Tensor) -> Tensor:
    """Cells of each map `[T, h, w]` from the strongest to the weakest, int64 `[T, h w]`.

    Equally strong cells come in a random order, the same for all maps, so that no row of the image is preferred.
    """
    flat = maps.flatten(1)
    shuffled = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(TIE_SEED)).to(flat.device)
    return shuffled[flat[:, shuffled].argsort(dim=1, descending=True, stable=True)]


class Perturbation:
    """Deletion and insertion for the words of one answer about one image.

    The probability of a word is the geometric mean over its tokens. Each token is scored at the answer state in which
    it was unmasked. Masked cells get the median color of the image.

    Args:
        adapter: the model.
        inputs: the encoded image and prompt.
        trajectory: the generated answer.
        words: the T words to score.
        shares: shares of the cells to mask, ascending, above 0 and below 1.
        batch_size: images that share a forward pass.

    Raises:
        ValueError: if `shares` are not ascending, or not above 0 and below 1.

    Example:
        >>> from dcam_fast import Generation, models, sample_image
        >>> adapter = models.load("tiny")
        >>> inputs = adapter.encode(sample_image(), adapter.default_prompt)
        >>> trajectory = adapter.generate(inputs, Generation(steps=12))
        >>> words = adapter.words(trajectory)[1:3]
        >>> curves = Perturbation(adapter, inputs, trajectory, words).curves(torch.rand(2, 16, 16))
        >>> curves.deletion.shape
        torch.Size([2, 4])
    """

    @own_modes()
    def __init__(
        self,
        adapter: Adapter[Any],
        inputs: Inputs,
        trajectory: Trajectory,
        words: Sequence[Word],
        shares: Sequence[float] = SHARES,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        if list(shares) != sorted(set(shares)) or not all(0 < share < 1 for share in shares):
            raise ValueError(f"Perturbation: shares must be ascending, above 0 and below 1, got {tuple(shares)}")
        self.adapter, self.inputs, self.words, self.batch_size = adapter, inputs, tuple(words), batch_size
        self.shares = tuple(shares)
        positions = positions_of(words).to(adapter.device)
        self.targets = build_targets(trajectory, positions, "committed", adapter.mask_token)
        self.view: ImageView = inputs.views[0]
        self.boxes = self.view.boxes.view(-1, 4).round().long().tolist()
        self.fill_color = np.median(inputs.image.reshape(-1, 3), axis=0).astype(np.uint8)
        blank = adapter.encode(np.broadcast_to(self.fill_color, inputs.image.shape).copy(), inputs.prompt)
        with adapter.frozen():
            self.baseline = self._probability(log_probabilities(adapter, inputs, self.targets))
            self.blank = self._probability(log_probabilities(adapter, blank, self.targets))

    @own_modes()
    def curves(self, maps: Tensor) -> Curves:
        """Deletion and insertion curves for maps `[T, h, w]`, one for each word."""
        order = by_strength(maps).cpu()
        word_of_token = word_index(self.words).tolist()
        counts = [max(round(share * order.shape[1]), 1) for share in self.shares]
        images = []
        for cells in order:
            for count in counts:
                strongest = self._pixels(cells[:count].tolist())[..., None]
                images.append(np.where(strongest, self.fill_color, self.inputs.image))
                images.append(np.where(strongest, self.inputs.image, self.fill_color))
        versions = 2 * len(counts)
        queries = [
            (word * versions + version, token)
            for token, word in enumerate(word_of_token)
            for version in range(versions)
        ]
        with self.adapter.frozen():
            scores = self._run(images, queries)
        perturbed = self._probability(scores.view(len(word_of_token), len(counts), 2))
        ends = self.baseline[:, None], self.blank[:, None]
        return Curves(
            shares=torch.tensor([0.0, *self.shares, 1.0], device=perturbed.device),
            deletion=torch.cat((ends[0], perturbed[..., 0], ends[1]), 1),
            insertion=torch.cat((ends[1], perturbed[..., 1], ends[0]), 1),
        )

    def _probability(self, log_probabilities: Tensor) -> Tensor:
        """From log-probabilities of tokens `[tokens, ...]` to probabilities of words `[T, ...]`."""
        return mean_by_word(log_probabilities, self.words).exp()

    def _pixels(self, cells: list[int]) -> NDArray[np.bool_]:
        mask = np.zeros(self.inputs.image.shape[:2], bool)
        for cell in cells:
            x0, y0, x1, y1 = self.boxes[cell]
            mask[y0:y1, x0:x1] = True
        return mask

    def _run(self, images: list[NDArray[np.uint8]], queries: list[tuple[int, int]]) -> Tensor:
        """Log-probabilities `[len(queries)]`, each of an (image, token).

        An image with several tokens runs once for all of them; the other images run in batches.
        """
        scores = self.view.boxes.new_zeros(len(queries))
        places: dict[bytes, list[int]] = {}
        for place, (image, _) in enumerate(queries):
            places.setdefault(images[image].tobytes(), []).append(place)
        tokens = torch.tensor([token for _, token in queries], device=scores.device, dtype=torch.int64)

        def encode(place: int) -> Inputs:
            return self.adapter.encode(images[queries[place][0]], self.inputs.prompt)

        for shared in (same for same in places.values() if len(same) > 1):
            scores[shared] = log_probabilities(self.adapter, encode(shared[0]), self._rows(tokens[shared]))
        single = [same[0] for same in places.values() if len(same) == 1]
        for start in range(0, len(single), self.batch_size):
            batch = single[start : start + self.batch_size]
            for joined, span in self.adapter.batched([encode(place) for place in batch]):
                scores[batch[span]] = log_probabilities(self.adapter, joined, self._rows(tokens[batch[span]]))
        return scores

    def _rows(self, rows: Tensor) -> TargetBatch:
        batch = self.targets
        return TargetBatch(batch.canvases[rows], batch.positions[rows], batch.distractors[rows], batch.tokens[rows])
