"""Probabilities of tokens at answer states, with the image as it is and with some of its cells ablated."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from dcam_fast.attribution.engine import run_layers, select
from dcam_fast.attribution.target_batch import TargetBatch
from dcam_fast.attribution.threads import run_all
from dcam_fast.models.adapter import Adapter, Hidden, Inputs

SMALL_CHUNK: Final = 3  # targets of a small model in one task of `run_all`


@torch.no_grad()
def log_probabilities(adapter: Adapter[Any], inputs: Inputs, targets: TargetBatch) -> Tensor:
    """Log-probability `[T]` of each target's token at its canvas."""
    hidden = run_layers(adapter, adapter.embed(inputs, targets.canvases), inputs, range(adapter.num_layers))
    return _token_log_probabilities(adapter, hidden, inputs, targets)


@torch.no_grad()
def log_probabilities_with_and_without(
    adapter: Adapter[Any], inputs: Inputs, targets: TargetBatch, layer: int, cells: Tensor, ablated: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-probability `[T]` of each target's token, and the same with the activations of some cells replaced by the
    mean of the other cells.

    Args:
        adapter: of the model.
        inputs: image and prompt, encoded.
        targets: the tokens and their canvases.
        layer: the layer whose output is changed. Only the layers above it run once for each target.
        cells: int64 `[N]`, rows of the image stream.
        ablated: bool `[T, N]`, the cells to replace for each target.
    """
    below = run_layers(adapter, adapter.embed(inputs, targets.canvases), inputs, range(layer + 1))
    above = range(layer + 1, adapter.num_layers)

    @torch.no_grad()
    def visible() -> Tensor:
        return _token_log_probabilities(adapter, run_layers(adapter, below, inputs, above), inputs, targets)

    @torch.no_grad()
    def without(part: slice) -> Tensor:
        rows = select(below, part).split()
        states = rows.image[:, cells]
        kept = (~ablated[part]).to(states.dtype)[..., None]
        mean = (states * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)
        image = rows.image.index_copy(1, cells, torch.where(ablated[part][..., None], mean, states))
        hidden = run_layers(adapter, Hidden(image, rows.canvas), inputs, above)
        return _token_log_probabilities(adapter, hidden, inputs, targets.part(part))

    size = SMALL_CHUNK if adapter.small else len(targets)
    tasks: list[Callable[[], Tensor]] = [visible]
    tasks += [functools.partial(without, slice(start, start + size)) for start in range(0, len(targets), size)]
    first, *others = run_all(tasks)
    return first, torch.cat(others)


def _token_log_probabilities(adapter: Adapter[Any], hidden: Hidden, inputs: Inputs, targets: TargetBatch) -> Tensor:
    logits = adapter.logits(hidden, targets.positions[:, None], inputs)[:, 0]
    return logits.log_softmax(-1).gather(1, targets.tokens[:, None])[:, 0]
