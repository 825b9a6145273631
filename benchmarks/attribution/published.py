"""The published method's passes (arXiv 2604.11005), the baseline of the attribution pass.

Each word takes one pass. The finished, unmasked answer is encoded again, from the pixels if the model has a vision
tower. The graph covers the whole model, parameters take gradients, and logits are computed for the whole sequence.
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
    adapter: Adapter[Any], inputs: Inputs, targets: TargetBatch, layer: int, objective: Objective
) -> Iterator[tuple[Tensor, Tensor]]:
    """Activations and gradients `[1, S, D]` at the output of the target layer, one target after the other.

    Args:
        adapter: has `model`, whose `logits` takes any hidden states.
        inputs: the encoded question.
        targets: the tokens to explain.
        layer: index of the target layer.
        objective: what is differentiated.
    """
    model: Any = adapter.model  # type: ignore[attr-defined]
    model.requires_grad_(True)
    try:
        for target in targets.chunks(1):
            model.zero_grad(set_to_none=True)
            with torch.enable_grad():
                hidden = adapter.embed(_encode_again(adapter, inputs), target.canvases)
                for index in range(adapter.num_layers):
                    hidden = adapter.layer(index, hidden, inputs)
                    if index == layer:
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


def _encode_again(adapter: Any, inputs: Inputs) -> Inputs:
    """The inputs, with the image embedded again if the model has a vision tower."""
    if not hasattr(adapter, "processor"):
        return inputs
    pixels = adapter.processor(inputs.image).to(adapter.device, adapter.dtype)
    return replace(inputs, embedded=adapter.model.embed_image(pixels))  # type: ignore[call-arg]


def raw_maps(adapter: Adapter[Any], inputs: Inputs, targets: TargetBatch, layer: int, objective: Objective) -> Tensor:
    """Raw maps `[T, N]` of the published method."""
    cells = inputs.views[0].cells.flatten()
    captured = passes(adapter, inputs, targets, layer, objective)
    return torch.cat([ops.pool(activations, gradients, cells, "pooled") for activations, gradients in captured])
