"""Probabilities of tokens at answer states, as they are and after interventions on hidden states.

An intervention replaces rows of the sequence at the output of a layer by a mean, so that they no longer tell their
contents. Only the layers above run again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from dcam_fast.attribution.engine import run_layers, select
from dcam_fast.attribution.target_batch import TargetBatch
from dcam_fast.attribution.threads import run_all
from dcam_fast.models.adapter import Adapter, Hidden, Inputs

SMALL_CHUNK: Final = 3  # targets of a small model in one task of `run_all`


@dataclass(frozen=True)
class Interventions:
    """What is replaced for each of `T` targets.

    Attributes:
        layer: the layer at whose output it is replaced.
        cells: int64 `[N]`, rows of the image stream.
        place: bool `[T, N]`, the cells of the place that each target's map points at.
        others: bool `[T, L]`, the answer positions of the words beside the target's word.
    """

    layer: int
    cells: Tensor
    place: Tensor
    others: Tensor


@dataclass(frozen=True)
class Readings:
    """Float32 log-probabilities of `T` targets.

    Attributes:
        visible: `[T, V]`, of every token at the target's position.
        without_place: `[T]`, of the target's token with the cells of its place replaced by the mean of the other cells.
        without_image: `[T]`, with every row of the image replaced by the mean of these rows.
        without_prompt: `[T]`, the same with the rows of the prompt.
        without_others: `[T]`, the same with the rows of the other words of the answer.
    """

    visible: Tensor
    without_place: Tensor
    without_image: Tensor
    without_prompt: Tensor
    without_others: Tensor


@torch.no_grad()
def log_probabilities(adapter: Adapter[Any], inputs: Inputs, targets: TargetBatch) -> Tensor:
    """Log-probability `[T]` of each target's token at its canvas."""
    hidden = run_layers(adapter, adapter.embed(inputs, targets.canvases), inputs, range(adapter.num_layers - 1))
    return of_tokens(_log_probabilities(adapter, hidden, inputs, targets), targets.tokens)


@torch.no_grad()
def read(adapter: Adapter[Any], inputs: Inputs, targets: TargetBatch, interventions: Interventions) -> Readings:
    """The log-probabilities of targets, as they are and after each intervention.

    Layers up to the interventions run once. An image that is a separate stream runs once for all targets, except where
    the intervention differs between them.
    """
    above = range(interventions.layer + 1, adapter.num_layers - 1)
    embedded = adapter.embed(inputs, targets.canvases)
    hidden = run_layers(adapter, embedded, inputs, range(interventions.layer + 1))
    count, answer = hidden.image.shape[1], interventions.others.shape[1]
    image = _marked(inputs.image_rows, count)
    prompt = _marked(adapter.prompt_rows(inputs, count if adapter.has_two_streams else count - answer), count)
    place = interventions.place.new_zeros(len(targets), count)
    place[:, interventions.cells] = interventions.place
    around = _marked(interventions.cells, count) & ~place

    def visible(part: slice) -> Hidden:
        return select(hidden, part)

    def without_place(part: slice) -> Hidden:
        return _with_image(visible(part), place[part], around[part])

    def without_image(part: slice) -> Hidden:
        return _with_image(visible(part), image, image)

    def without_prompt(part: slice) -> Hidden:
        return _with_image(visible(part), prompt, prompt)

    def without_others(part: slice) -> Hidden:
        return without_answer(visible(part), *(interventions.others[part],) * 2)

    @torch.no_grad()  # a mode of this thread, and tasks have others
    def run(change: Callable[[slice], Hidden], part: slice) -> Tensor:
        states = run_layers(adapter, change(part), inputs, above)
        return _log_probabilities(adapter, states, inputs, targets.part(part))

    whole = [slice(0, len(targets))]
    parts = [slice(i, i + SMALL_CHUNK) for i in range(0, len(targets), SMALL_CHUNK)] if adapter.small else whole
    shared = whole if len(hidden.image) == 1 else parts
    plan = (
        (without_place, parts),
        *((change, shared) for change in (visible, without_image, without_prompt, without_others)),
    )
    results = iter(run_all([functools.partial(run, change, part) for change, group in plan for part in group]))
    values = {change: torch.cat([next(results) for _ in group]) for change, group in plan}
    return Readings(
        values[visible],
        *(
            of_tokens(values[change], targets.tokens)
            for change in (without_place, without_image, without_prompt, without_others)
        ),
    )


def of_tokens(log_probabilities: Tensor, tokens: Tensor) -> Tensor:
    """The log-probability `[T]` of each of the tokens, int64 `[T]`, from those of all, `[T, V]`."""
    return log_probabilities.gather(1, tokens[:, None])[:, 0]


def replaced(states: Tensor, rows: Tensor, source: Tensor) -> Tensor:
    """States `[C, N, D]` with `rows` replaced by the mean of the rows of `source`, both bool `[C, N]` or `[1, N]`.

    >>> states = torch.tensor([[[1.0], [2.0], [3.0]]])
    >>> replaced(states, torch.tensor([[True, False, False]]), torch.tensor([[False, True, True]])).flatten().tolist()
    [2.5, 2.0, 3.0]
    """
    weights = source.float() / source.sum(1, keepdim=True).clamp(min=1)
    mean = weights[:, None] @ states.float()
    return torch.where(rows[..., None], mean.to(states.dtype), states)


def _with_image(hidden: Hidden, rows: Tensor, source: Tensor) -> Hidden:
    return Hidden(replaced(hidden.image, rows, source), hidden.canvas)


def without_answer(hidden: Hidden, positions: Tensor, source: Tensor) -> Hidden:
    """Hidden states with the rows of answer `positions` replaced by the mean of those of `source`, both bool `[C, L]`
    or `[1, L]`, in the stream that holds them."""
    stream = hidden.image if hidden.canvas is None else hidden.canvas
    rows, source = (F.pad(mask, (stream.shape[1] - mask.shape[1], 0)) for mask in (positions, source))
    changed = replaced(stream, rows, source)
    return Hidden(changed) if hidden.canvas is None else Hidden(hidden.image, changed)


def _marked(rows: Tensor, count: int) -> Tensor:
    """Row indices as a mask, bool `[1, count]`."""
    return torch.zeros(1, count, dtype=torch.bool, device=rows.device).index_fill_(1, rows, True)


def _log_probabilities(adapter: Adapter[Any], hidden: Hidden, inputs: Inputs, targets: TargetBatch) -> Tensor:
    """Log-probabilities `[T, V]` of every token at each target's position, from the input of the last layer."""
    return adapter.answer_logits(hidden, targets.positions[:, None], inputs)[:, 0].log_softmax(-1)
