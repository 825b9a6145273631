"""A sample that a model has answered, the maps of the words that name something in it, and what is measured of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcam_fast import ops
from dcam_fast.attribution.answer import Answer
from dcam_fast.attribution.by_word import positions_of
from dcam_fast.attribution.methods.protocol import AttributionMethod
from dcam_fast.attribution.methods.shared import all_raw_maps
from dcam_fast.attribution.refinement import refined
from dcam_fast.evaluation.datasets.matching import named_words
from dcam_fast.evaluation.datasets.sample import Sample
from dcam_fast.evaluation.metrics import inter_word_correlation, overlap, points_at
from dcam_fast.evaluation.perturbation import Curves
from dcam_fast.models.adapter import Adapter, Inputs, Trajectory, Word
from dcam_fast.modes import own_modes

Metrics = dict[str, list[float]]


@dataclass(frozen=True, eq=False)
class Case:
    """A sample, the model's answer, and T words or phrases of it that name a region.

    Attributes:
        words: they.
        owners: int64 ``[T]``, the region of each.
        masks: bool ``[T, H, W]``, its pixels.
        others: bool ``[T, H, W]``, the pixels of all other regions alone.
        labels: int64 ``[H, W]``, 1 and up for the regions of the sample, the later above the earlier; 0 elsewhere.
    """

    sample: Sample
    inputs: Inputs
    trajectory: Trajectory
    words: tuple[Word, ...]
    owners: Tensor
    masks: Tensor
    others: Tensor
    labels: Tensor

    @property
    def answer(self) -> Tensor:
        """Its tokens, int64 ``[n]``."""
        return self.trajectory.tokens[: self.trajectory.length]

    @property
    def positions(self) -> Tensor:
        """Answer positions int64 of the words' tokens."""
        return positions_of(self.words).to(self.masks.device)


@own_modes()
def prepare(
    adapter: Adapter[Any], sample: Sample, steps: int | None = None, block_length: int | None = None
) -> tuple[str, Case | None]:
    """The model's answer about a sample, and the case that it makes; None where no word of it names a region."""
    inputs = adapter.encode(sample.image, adapter.default_prompt if sample.prompt is None else sample.prompt)
    trajectory = adapter.generate(inputs, steps, block_length)
    answer = adapter.decode(trajectory.tokens[: trajectory.length])
    named = named_words(adapter.words(trajectory), sample)
    if not named:
        return answer, None
    regions = torch.from_numpy(np.stack([region.mask for region in sample.regions])).to(adapter.device)
    owners = torch.tensor([owner for _, owner in named], device=adapter.device)
    masks = regions[owners]
    return answer, Case(
        sample=sample,
        inputs=inputs,
        trajectory=trajectory,
        words=tuple(word for word, _ in named),
        owners=owners,
        masks=masks,
        others=regions.any(0) & ~masks,
        labels=(regions * torch.arange(1, len(regions) + 1, device=regions.device).view(-1, 1, 1)).amax(0),
    )


@own_modes()
def case_maps(
    adapter: Adapter[Any], case: Case, methods: Mapping[str, AttributionMethod], words: Sequence[Word] | None = None
) -> dict[str, Tensor]:
    """Refined maps ``[T, h, w]`` of a case's words, or of ``words``, by every method, as `Explainer.explain` makes
    them."""
    explained = case.words if words is None else words
    raw = all_raw_maps(methods, Answer(adapter, case.inputs, case.trajectory), explained)
    return {name: refined(maps, methods[name].profile, case.inputs, case.answer) for name, maps in raw.items()}


@own_modes()
def mask_maps(case: Case) -> Tensor:
    """The true masks as maps ``[T, h, w]``: the share of each cell that they cover. The upper end of every scale."""
    boxes = case.inputs.views[0].boxes
    height, width = case.masks.shape[1:]
    total = torch.nn.functional.pad(case.masks.float().cumsum(1).cumsum(2), (1, 0, 1, 0))
    x0, x1 = (boxes[..., side].round().long().clamp(0, width) for side in (0, 2))
    y0, y1 = (boxes[..., side].round().long().clamp(0, height) for side in (1, 3))
    covered = total[:, y1, x1] - total[:, y0, x1] - total[:, y1, x0] + total[:, y0, x0]
    return covered / ((y1 - y0) * (x1 - x0)).clamp(min=1)


@own_modes()
def measure(case: Case, maps: Tensor) -> Metrics:
    """How well maps ``[T, h, w]`` of a case's words fit what they name: a value a word.

    ``inter_word_correlation`` is one value for all of them, or none where all words name the same. Metrics named
    ``any_`` are the paper's: against all that is annotated in the image, so that a word's map may sit on whatever it
    likes.
    """
    boxes = case.inputs.views[0].boxes
    height, width = case.masks.shape[1:]
    pixels = ops.upsample(maps, boxes, (height, width))
    fit = overlap(pixels, case.masks.long())
    anything = overlap(pixels, case.labels)
    hit = points_at(maps, boxes, case.masks)
    alike = inter_word_correlation(maps, case.owners)
    return {
        "pointing": hit.double().tolist(),
        "wrong": (points_at(maps, boxes, case.others) & ~hit).double().tolist(),
        "obj_iou": fit.obj_iou.tolist(),
        "func_iou": fit.func_iou.tolist(),
        "precision": fit.precision.tolist(),
        "recall": fit.recall.tolist(),
        "contrast": fit.contrast.tolist(),
        "contrast_score": fit.contrast_score.tolist(),
        "concentration": fit.concentration.tolist(),
        "f3": fit.f3_harmonic.tolist(),
        "f3_geometric": fit.f3_geometric.tolist(),
        "any_obj_iou": anything.obj_iou.tolist(),
        "any_contrast": anything.contrast.tolist(),
        "any_concentration": anything.concentration.tolist(),
        "any_f3": anything.f3_harmonic.tolist(),
        "inter_word_correlation": [] if alike is None else [alike],
    }


def curve_metrics(curves: Curves) -> Metrics:
    """A value a word: the areas under both curves, and their inner points by the share of the cells in percent."""
    table = {"deletion_area": curves.deletion_area.tolist(), "insertion_area": curves.insertion_area.tolist()}
    for index, share in enumerate(curves.shares.tolist()[1:-1], 1):
        table[f"deletion_{100 * share:.3g}%"] = curves.deletion[:, index].tolist()
        table[f"insertion_{100 * share:.3g}%"] = curves.insertion[:, index].tolist()
    return table
