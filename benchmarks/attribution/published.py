"""The published flow, what the attribution pass is measured against.

For every word, one pass: the finished, unmasked answer is encoded again from the embeddings (and, where the model has a
vision tower, from the pixels) on, with a graph through the whole model, whose parameters take gradients, and logits of
the whole sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dcam_fast import ops
from dcam_fast.attribution.objectives import Objective, Scores, evaluate
from dcam_fast.attribution.target_batch import TargetBatch
from dcam_fast.models.adapter import Adapter, Inputs


def passes(
    adapter: Adapter[Any], inputs: Inputs, targets: TargetBatch, block: int, objective: Objective
) -> Iterator[tuple[Tensor, Tensor]]:
    """Activations and gradients ``[1, S, D]`` behind ``block``, one target after the other. ``adapter`` has ``model``,
    with ``logits`` for any hidden states."""
    model: Any = adapter.model  # type: ignore[attr-defined]
    model.requires_grad_(True)
    try:
        for target in targets.chunks(1):
            model.zero_grad(set_to_none=True)
            with torch.enable_grad():
                hidden = adapter.embed(_seen_anew(model, inputs), target.canvases)
                for index in range(adapter.num_layers):
                    hidden = adapter.layer(index, hidden, inputs)
                    if index == block:
                        features = hidden.image
                        features.retain_grad()
                length = target.canvases.shape[1]
                sequence = hidden.image
                if hidden.canvas is not None:
                    sequence = torch.cat((sequence, hidden.canvas), 1)
                answer = model.logits(sequence)[:, -length:]
                scores = Scores(answer[:, int(target.positions)], answer[:, int(target.distractors)], target.tokens)
                evaluate(objective, scores).sum().backward()
            assert features.grad is not None
            yield features.detach(), features.grad
    finally:
        model.zero_grad(set_to_none=True)
        model.requires_grad_(False)


def _seen_anew(model: Any, inputs: Inputs) -> Inputs:
    """The inputs with their image through the vision tower again, where there is one."""
    if not hasattr(model, "vision"):
        return inputs
    return replace(inputs, embedded=model.embed_image(inputs.pixels))  # type: ignore[call-arg, attr-defined]


def raw_maps(adapter: Adapter[Any], inputs: Inputs, targets: TargetBatch, block: int, objective: Objective) -> Tensor:
    """Raw maps ``[T, N]`` in the published form."""
    cells = inputs.views[0].cells.flatten()
    each = passes(adapter, inputs, targets, block, objective)
    return torch.cat([ops.pool(activations, gradients, cells, "pooled") for activations, gradients in each])
