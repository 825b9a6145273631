"""Diffusion-CAM (arXiv 2604.11005): raw maps of answer positions from one layer's, or several layers', hidden
states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dcam_fast import ops
from dcam_fast.attribution.answer_states import State, canvases
from dcam_fast.attribution.by_word import mean_by_word, positions_of, word_index
from dcam_fast.attribution.engine import Targets, differentiate
from dcam_fast.attribution.objectives import Objective
from dcam_fast.config import DEFAULT, RefineConfig
from dcam_fast.models.adapter import NO_MASK, Adapter, AdapterError, ImageView, Inputs, Trajectory, Word


@dataclass(frozen=True)
class GradientCAM:
    """How a map is made.

    Attributes:
        objective: the scalar that is differentiated (`attribution.objectives`).
        state: the answer state it is evaluated at (`attribution.states`).
        aggregation: how activations and gradients become one number per cell (`ops.pool`).
        target_layers: the layers whose maps are averaged, ascending; None: the adapter's choice.
        depth: approximate: how many layers above those are differentiated; None: all, which is exact.
        shared: approximate: a word of several tokens, or a phrase, costs one backward pass: all its tokens are masked
            at once, and the sum of their objectives is differentiated. False: the mean of their maps, which is exact.
        profile: how the raw map is refined unless the caller says otherwise.
    """

    objective: Objective = "logprob"
    state: State = "remask"
    aggregation: str = "layer_cam"
    target_layers: tuple[int, ...] | None = None
    depth: int | None = None
    shared: bool = False
    profile: RefineConfig = DEFAULT

    def raw_maps(
        self, adapter: Adapter[Any], inputs: Inputs, trajectory: Trajectory, words: Sequence[Word], view: ImageView
    ) -> Tensor:
        """See `dcam_fast.attribution.AttributionMethod.raw_maps`."""
        return maps_of_words(adapter, inputs, trajectory, words, (self,), view)[0]


def build_targets(trajectory: Trajectory, positions: Tensor, state: State, mask_token: int) -> Targets:
    """Targets at ``positions``, int64 ``[T]``. The distractor of each is the first other position of the canvas."""
    distractors = torch.where(positions == 0, min(1, len(trajectory.tokens) - 1), 0)
    return Targets(
        canvases=canvases(trajectory, positions, state, mask_token),
        positions=positions,
        distractors=distractors,
        tokens=trajectory.tokens[positions],
    )


def raw_maps(adapter: Adapter[Any], inputs: Inputs, targets: Targets, method: GradientCAM, view: ImageView) -> Tensor:
    """Raw maps float32 ``[T, h, w]`` in 0..1 of ``targets`` over one view of the image."""
    return _pooled(adapter, inputs, targets, method, (method.aggregation,), view)[0]


def maps_of_words(
    adapter: Adapter[Any],
    inputs: Inputs,
    trajectory: Trajectory,
    words: Sequence[Word],
    methods: Sequence[GradientCAM],
    view: ImageView,
) -> list[Tensor]:
    """Raw maps float32 ``[len(words), h, w]`` by each of ``methods``, which differ in nothing but their aggregation
    and profile and so share their passes."""
    positions = positions_of(words).to(adapter.device)
    targets = build_targets(trajectory, positions, methods[0].state, adapter.mask_token)
    aggregations = [method.aggregation for method in methods]
    if methods[0].shared:
        owners = word_index(words).to(adapter.device)
        targets = _as_phrases(targets, owners, adapter.mask_token)
        return _pooled(adapter, inputs, targets, methods[0], aggregations, view)
    maps = _pooled(adapter, inputs, targets, methods[0], aggregations, view)
    return [mean_by_word(per_token, words) for per_token in maps]


def _as_phrases(targets: Targets, owners: Tensor, mask_token: int) -> Targets:
    """One map for the targets of each owner, int64 ``[T]``, at a canvas that masks what any of theirs masks."""
    if mask_token == NO_MASK:
        raise AdapterError("attribute: shared must be False for a model without a mask token, got True")
    together = owners[:, None] == owners
    masked = (together.float() @ (targets.canvases == mask_token).float()) > 0
    return replace(targets, canvases=torch.where(masked, mask_token, targets.canvases), maps=owners)


def _pooled(
    adapter: Adapter[Any],
    inputs: Inputs,
    targets: Targets,
    method: GradientCAM,
    aggregations: Sequence[str],
    view: ImageView,
) -> list[Tensor]:
    """Raw maps ``[T, h, w]`` by each aggregation of what ``method`` differentiates."""
    h, w = view.cells.shape
    cells = view.cells.flatten()
    layers = adapter.default_layers if method.target_layers is None else method.target_layers
    count = len(targets) if targets.maps is None else len(targets.maps.unique())
    maps = [view.boxes.new_zeros(count, h * w) for _ in aggregations]

    def pool(_block: int, numbers: Tensor, activations: Tensor, gradients: Tensor) -> None:
        for of, aggregation in zip(maps, aggregations, strict=True):
            of[numbers] += ops.pool(activations, gradients, cells, aggregation)

    differentiate(adapter, inputs, targets, layers, method.objective, pool, method.depth)
    if len(layers) > 1:  # as `ops.pool` averages layers, whose gradients never are there at once
        maps = [of - of.amin(1, keepdim=True) for of in maps]
        maps = [of / (of.amax(1, keepdim=True) + 1e-8 * len(layers)) for of in maps]
    return [of.view(-1, h, w) for of in maps]
