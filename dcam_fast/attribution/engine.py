"""Activations and gradients at the image cells, for many targets in few passes.

Everything up to the lowest explained block runs without a graph; only the blocks above it are differentiated, and only
with respect to the hidden states there. That is exact, and it is where the time and memory of the published flow go.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dcam_fast.attribution.objectives import Objective, Scores, evaluate
from dcam_fast.models.adapter import Adapter, Hidden, Inputs


@dataclass(frozen=True)
class Targets:
    """``T`` answer positions to explain, each at a canvas of its own.

    Attributes:
        canvases: int64 ``[T, L]``, the answer state each target is explained at.
        positions: int64 ``[T]``, the targets.
        distractors: int64 ``[T]``, the positions that contrastive objectives subtract.
        tokens: int64 ``[T]``, the tokens produced at the targets' positions.
    """

    canvases: Tensor
    positions: Tensor
    distractors: Tensor
    tokens: Tensor

    def __len__(self) -> int:
        return len(self.positions)

    def chunks(self, size: int) -> Iterator[Targets]:
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield Targets(self.canvases[part], self.positions[part], self.distractors[part], self.tokens[part])


@dataclass(frozen=True)
class Capture:
    """One block's view of ``T`` targets: ``activations`` and ``gradients``, ``[T, S, D]``, over the image stream."""

    activations: Tensor
    gradients: Tensor


def _run(adapter: Adapter[Any], hidden: Hidden, inputs: Inputs, blocks: range) -> Hidden:
    for index in blocks:
        hidden = adapter.block(index, hidden, inputs)
    return hidden


def capture(
    adapter: Adapter[Any], inputs: Inputs, targets: Targets, blocks: tuple[int, ...], objective: Objective
) -> tuple[Capture, ...]:
    """Activations behind each of ``blocks`` (ascending) and the gradients of the objective there.

    One forward and one backward pass for all targets and blocks; parameters take no gradients, and the caller's
    autograd mode does not matter. Raises AdapterError for a block that cannot be explained.
    """
    adapter.check_blocks(blocks)
    with torch.no_grad():
        below = _run(adapter, adapter.embed(inputs, targets.canvases), inputs, range(blocks[0] + 1))
    with torch.enable_grad():
        hidden = below.split()
        kept = [hidden.image]
        for lower, upper in itertools.pairwise(blocks):
            hidden = _run(adapter, hidden, inputs, range(lower + 1, upper + 1))
            kept.append(hidden.image)
        hidden = _run(adapter, hidden, inputs, range(blocks[-1] + 1, adapter.blocks))
        rows = torch.stack((targets.positions, targets.distractors), 1)
        logits = adapter.logits(hidden, rows, inputs)
        score = evaluate(objective, Scores(logits[:, 0], logits[:, 1], targets.tokens))
        gradients = torch.autograd.grad(score.sum(), kept)
    return tuple(Capture(a.detach(), g) for a, g in zip(kept, gradients, strict=True))


@torch.no_grad()
def log_probabilities(adapter: Adapter[Any], inputs: Inputs, targets: Targets) -> Tensor:
    """Log-probability ``[T]`` of every target's token at its canvas."""
    hidden = _run(adapter, adapter.embed(inputs, targets.canvases), inputs, range(adapter.blocks))
    return _read(adapter, hidden, inputs, targets)


@torch.no_grad()
def ablated_log_probabilities(
    adapter: Adapter[Any], inputs: Inputs, targets: Targets, block: int, cells: Tensor, ablated: Tensor
) -> Tensor:
    """The same, ``[T]``, with what some cells hold behind ``block`` replaced by the mean of the other cells.

    Args:
        adapter, inputs, targets: as in `capture`.
        block: where to intervene; only the blocks above it run once per target.
        cells: int64 ``[N]``, rows of the image stream.
        ablated: bool ``[T, N]``, the cells that each target has to do without.
    """
    below = _run(adapter, adapter.embed(inputs, targets.canvases), inputs, range(block + 1)).split()
    states = below.image[:, cells]
    kept = (~ablated).to(states.dtype)[..., None]
    mean = (states * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)
    image = below.image.index_copy(1, cells, torch.where(ablated[..., None], mean, states))
    hidden = _run(adapter, Hidden(image, below.canvas), inputs, range(block + 1, adapter.blocks))
    return _read(adapter, hidden, inputs, targets)


def _read(adapter: Adapter[Any], hidden: Hidden, inputs: Inputs, targets: Targets) -> Tensor:
    logits = adapter.logits(hidden, targets.positions[:, None], inputs)[:, 0]
    return logits.log_softmax(-1).gather(1, targets.tokens[:, None])[:, 0]
