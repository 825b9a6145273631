"""Samples that a model has answered: the words that name a region, their maps, and the metrics of these maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcam_fast.attribution.answer import Answer
from dcam_fast.attribution.by_word import positions_of
from dcam_fast.attribution.methods.protocol import AttributionMethod
from dcam_fast.attribution.methods.shared import all_raw_maps
from dcam_fast.attribution.refinement import refined
from dcam_fast.evaluation.datasets.matching import named_words
from dcam_fast.evaluation.datasets.sample import Sample
from dcam_fast.models.adapter import DEFAULT_GENERATION, Adapter, Inputs, Trajectory, Word
from dcam_fast.models.generation import Generation
from dcam_fast.torch_modes import own_modes


@dataclass(frozen=True, eq=False)
class EvaluationCase:
    """A sample, the model's answer, and the T words or phrases of the answer that name a region.

    Attributes:
        sample: the sample.
        inputs: the encoded image and prompt.
        trajectory: the generated answer.
        words: the T words.
        region_index: int64 `[T]`, the index of the region that each word names.
        masks: bool `[T, H, W]`, the pixels of that region.
        others: bool `[T, H, W]`, the pixels of all other regions outside that region.
        labels: int64 `[H, W]`, 1 + the index of the region at a pixel (the last one, where they overlap); 0 elsewhere.
    """

    sample: Sample
    inputs: Inputs
    trajectory: Trajectory
    words: tuple[Word, ...]
    region_index: Tensor
    masks: Tensor
    others: Tensor
    labels: Tensor

    @property
    def answer(self) -> Tensor:
        """The tokens of the answer, int64 `[n]`."""
        return self.trajectory.tokens[: self.trajectory.length]

    @property
    def positions(self) -> Tensor:
        """The answer positions of the tokens of all words, int64."""
        return positions_of(self.words).to(self.masks.device)


@own_modes()
def prepare(
    adapter: Adapter[Any], sample: Sample, generation: Generation = DEFAULT_GENERATION
) -> tuple[str, EvaluationCase | None]:
    """The model's answer about a sample, and its case; None if no word of the answer names a region.

    Args:
        adapter: the model.
        sample: the image and its regions.
        generation: how the answer is generated.
    """
    inputs = adapter.encode(sample.image, adapter.default_prompt if sample.prompt is None else sample.prompt)
    trajectory = adapter.generate(inputs, generation)
    answer = adapter.decode(trajectory.tokens[: trajectory.length])
    named = named_words(adapter.words(trajectory), sample)
    if not named:
        return answer, None
    regions = torch.from_numpy(np.stack([region.mask for region in sample.regions])).to(adapter.device)
    region_index = torch.tensor([index for _, index in named], device=adapter.device)
    masks = regions[region_index]
    return answer, EvaluationCase(
        sample=sample,
        inputs=inputs,
        trajectory=trajectory,
        words=tuple(word for word, _ in named),
        region_index=region_index,
        masks=masks,
        others=regions.any(0) & ~masks,
        labels=(regions * torch.arange(1, len(regions) + 1, device=regions.device).view(-1, 1, 1)).amax(0),
    )


@own_modes()
def case_maps(
    adapter: Adapter[Any],
    case: EvaluationCase,
    methods: Mapping[str, AttributionMethod],
    words: Sequence[Word] | None = None,
) -> dict[str, Tensor]:
    """Refined maps `[T, h, w]` of the words of a case, by every method, as `Explainer.explain` makes them.

    Args:
        adapter: the model that answered.
        case: the case.
        methods: the methods by name.
        words: the words to explain instead of those of the case.
    """
    target_words = case.words if words is None else words
    with adapter.frozen():
        raw = all_raw_maps(methods, Answer(adapter, case.inputs, case.trajectory), target_words)
    return {name: refined(maps, methods[name].profile, case.inputs, case.answer) for name, maps in raw.items()}


@own_modes()
def mask_maps(case: EvaluationCase) -> Tensor:
    """The true masks as maps `[T, h, w]`: the share of each cell that a mask covers."""
    boxes = case.inputs.views[0].boxes
    height, width = case.masks.shape[1:]
    total = torch.nn.functional.pad(case.masks.float().cumsum(1).cumsum(2), (1, 0, 1, 0))
    x0, x1 = (boxes[..., side].round().long().clamp(0, width) for side in (0, 2))
    y0, y1 = (boxes[..., side].round().long().clamp(0, height) for side in (1, 3))
    covered = total[:, y1, x1] - total[:, y0, x1] - total[:, y1, x0] + total[:, y0, x0]
    return covered / ((y1 - y0) * (x1 - x0)).clamp(min=1)
