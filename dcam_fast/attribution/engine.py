"""Activations and gradients at the image cells, for many targets in few passes.

Layers up to the lowest target layer run without a graph. Only the layers above it are differentiated, with respect to
the hidden states at its output. What targets share is computed once: a canvas runs forward once, and an image that is a
separate stream runs forward once for all canvases. Each target then costs one backward pass. The gradients are exact,
and most of the time and memory of the published method is saved.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dcam_fast.attribution.objectives import Objective, Scores, evaluate
from dcam_fast.attribution.resources import AllowanceError, Meter, allowance, compiled, current
from dcam_fast.attribution.target_batch import TargetBatch
from dcam_fast.attribution.threads import run_all, workers
from dcam_fast.interruption import check_interruption
from dcam_fast.models.adapter import Adapter, AdapterError, Hidden, Inputs

log = logging.getLogger(__name__)

# Rows of hidden states in one batch. More is no faster (benchmarks/attribution/passes.py) and takes more memory.
ROWS = 4096
CHUNK = 16  # canvases that are embedded at once

# Receives the gradients at the output of one target layer: index into the target layers, map indices int64 [n],
# activations [n, S, D] (or [S, D] where all canvases share them) and gradients [n, S, D].
Consume = Callable[[int, Tensor, Tensor, Tensor], None]


@dataclass(frozen=True)
class Capture:
    """Activations and gradients `[T, S, D]` of `T` maps over the image stream, at the output of one layer."""

    activations: Tensor
    gradients: Tensor

    def __repr__(self) -> str:
        return f"Capture(activations={list(self.activations.shape)}, gradients={list(self.gradients.shape)})"


@dataclass(frozen=True)
class _Canvas:
    """A canvas `[L]` and the maps that are explained at it: the index of each and the rows of its targets."""

    tokens: Tensor
    maps: tuple[tuple[int, list[int]], ...]


@dataclass(frozen=True)
class _Pass:
    """Canvases that have run forward.

    Attributes:
        canvases: `C` of them.
        top: their hidden states at the output of the last layer.
        kept: the image stream at the output of each target layer, `[C, S, D]` or `[1, S, D]`. The first is the leaf.
        last: whether no later pass needs the graph below `top`.
    """

    canvases: Sequence[_Canvas]
    top: Hidden
    kept: list[Tensor]
    last: bool


def differentiate(
    adapter: Adapter[Any],
    inputs: Inputs,
    targets: TargetBatch,
    layers: tuple[int, ...],
    objective: Objective,
    consume: Consume,
    depth: int | None = None,
) -> None:
    """Computes activations and gradients at the output of each target layer and passes them to `consume`, a few maps at
    a time. A small model calls it from several threads, for different maps.

    Parameters take no gradients, and the caller's autograd mode does not matter. The gradients of a layer are freed
    before those of the next layer are computed, unless `consume` keeps them.

    Args:
        adapter: of the model.
        inputs: image and prompt, encoded.
        targets: the answer positions to explain.
        layers: the target layers, ascending.
        objective: the scalar that is differentiated; see `dcam_fast.attribution.objectives`.
        consume: called with layer index, map indices, activations and gradients; see `Consume`.
        depth: how many layers above the highest target layer are differentiated. Later layers count as the identity,
            which is an approximation. None: all layers, which is exact.

    Raises:
        AdapterError: for a layer that cannot be explained, or if the memory is too small for a single canvas.
        ValueError: if `depth` is not positive, or for an unknown objective.
    """
    adapter.check_layers(layers)
    if depth is not None and depth < 1:
        raise ValueError(f"GradientCAM: depth must be at least one layer, got {depth}")
    if not len(targets):
        return
    end = adapter.num_layers if depth is None else min(layers[-1] + 1 + depth, adapter.num_layers)

    def backward(state: _Pass) -> None:
        rounds = max(len(canvas.maps) for canvas in state.canvases)
        for index in range(rounds):
            check_interruption()
            # One map of each canvas that has another. Canvases do not see each other, so their scores can be summed.
            slots = [slot for slot, canvas in enumerate(state.canvases) if index < len(canvas.maps)]
            chosen = [state.canvases[slot].maps[index] for slot in slots]
            with torch.enable_grad():
                scores = [
                    _score(adapter, inputs, state.top, slot, rows, targets, objective)
                    for slot, (_, rows) in zip(slots, chosen, strict=True)
                ]
                score = torch.stack(scores).sum()
            maps = torch.tensor([number for number, _ in chosen])
            receive = functools.partial(_receive, consume, state.kept, slots, maps)
            _backward_pass(score, state.kept, receive, retain_graph=index + 1 < rounds or not state.last)

    if not adapter.has_two_streams:
        _with_own_images(adapter, inputs, _group_by_canvas(targets), layers, end, backward)
        return
    # Several canvases at once keep more, would call each other's hooks on the layers above the lowest, and call the
    # objective and the compiler from several threads.
    plain = current().max_memory is None and not current().compile and not callable(objective)
    concurrent = workers() > 1 and len(layers) == 1 and plain
    _with_shared_image(adapter, inputs, _group_by_canvas(targets), layers, end, backward, concurrent)


def capture(
    adapter: Adapter[Any],
    inputs: Inputs,
    targets: TargetBatch,
    layers: tuple[int, ...],
    objective: Objective,
    depth: int | None = None,
) -> tuple[Capture, ...]:
    """All activations and gradients of `differentiate`, one entry for each layer, for methods that need several layers
    at once."""
    parts: list[dict[int, tuple[Tensor, Tensor]]] = [{} for _ in layers]

    def keep(layer: int, maps: Tensor, activations: Tensor, gradients: Tensor) -> None:
        parts[layer] |= zip(maps.tolist(), zip(activations.expand_as(gradients), gradients, strict=True), strict=True)

    differentiate(adapter, inputs, targets, layers, objective, keep, depth)
    pairs = [[by_map[number] for number in sorted(by_map)] for by_map in parts]
    return tuple(Capture(torch.stack([a for a, _ in rows]), torch.stack([g for _, g in rows])) for rows in pairs)


def _group_by_canvas(targets: TargetBatch) -> list[_Canvas]:
    """The distinct canvases with their maps, sorted by the number of maps."""
    distinct, indices = torch.unique(targets.canvases, dim=0, return_inverse=True)
    members: list[dict[int, list[int]]] = [{} for _ in distinct]
    numbers = range(len(targets)) if targets.maps is None else targets.maps.tolist()
    for row, (index, number) in enumerate(zip(indices.tolist(), numbers, strict=True)):
        members[index].setdefault(number, []).append(row)
    canvases = [_Canvas(tokens, tuple(maps.items())) for tokens, maps in zip(distinct, members, strict=True)]
    return sorted(canvases, key=lambda canvas: len(canvas.maps))


def _score(
    adapter: Adapter[Any],
    inputs: Inputs,
    top: Hidden,
    slot: int,
    rows: list[int],
    targets: TargetBatch,
    objective: Objective,
) -> Tensor:
    """Weighted sum of the objectives of the targets in `rows` at canvas `slot`.

    The LM head sees only their rows, one canvas at a time, so that rounding does not depend on the other targets.
    """
    positions = torch.cat((targets.positions[rows], targets.distractors[rows]))[None]
    logits = adapter.logits(select(top, slice(slot, slot + 1)), positions, inputs)[0]
    values = evaluate(objective, Scores(logits[: len(rows)], logits[len(rows) :], targets.tokens[rows]))
    return values.sum() if targets.weights is None else (values * targets.weights[rows]).sum()


def _backward_pass(
    score: Tensor, kept: list[Tensor], receive: Callable[[int, Tensor], None], retain_graph: bool
) -> None:
    """One backward pass. `receive` gets the gradient of each target layer when it is computed, the lowest last."""
    hooks = [state.register_hook(functools.partial(receive, index)) for index, state in enumerate(kept) if index]
    try:
        (lowest,) = torch.autograd.grad(score, kept[0], retain_graph=retain_graph)
    finally:
        for hook in hooks:
            hook.remove()
    receive(0, lowest)


def _receive(
    consume: Consume, kept: list[Tensor], slots: list[int], maps: Tensor, layer: int, gradients: Tensor
) -> None:
    activations = kept[layer].detach()
    if len(activations) == 1:
        activations = activations[0]
    elif len(slots) < len(gradients):
        activations, gradients = activations[slots], gradients[slots]
    consume(layer, maps.to(gradients.device), activations, gradients)


# ------------------------------------------------------------------------------------------------------------- forward


def run_layers(adapter: Adapter[Any], hidden: Hidden, inputs: Inputs, layers: range) -> Hidden:
    for index in layers:
        hidden = adapter.layer(index, hidden, inputs)
    return hidden


def _run_prefix(adapter: Adapter[Any], image: Tensor, inputs: Inputs, layers: range) -> tuple[Tensor, list[Any]]:
    contexts = []
    for index in layers:
        image, context = adapter.prefix_layer(index, image, inputs)
        contexts.append(context)
    return image, contexts


def _run_canvas(
    adapter: Adapter[Any], canvas: Tensor, contexts: Sequence[Any], inputs: Inputs, layers: range
) -> Tensor:
    for index, context in zip(layers, contexts, strict=True):
        canvas = adapter.canvas_layer(index, canvas, context, inputs)
    return canvas


def _segments(layers: tuple[int, ...], end: int) -> list[range]:
    """The differentiated layers, split after each target layer: a compiler must keep the states there."""
    return [range(lower + 1, upper + 1) for lower, upper in itertools.pairwise((*layers, end - 1))]


def _straight_through(below: Tensor, above: Tensor) -> Tensor:
    """The values of `above` with the gradient of the same rows of `below`: the last layer may return fewer."""
    below = below[:, -above.shape[1] :]
    return below + (above - below).detach()


def _too_small(limit: int) -> AdapterError:
    return AdapterError(
        f"Resources: max_memory must be enough for the hidden states of one canvas, got {limit} bytes; "
        "a higher layer or a lower precision needs less"
    )


def _with_own_images(
    adapter: Adapter[Any],
    inputs: Inputs,
    canvases: list[_Canvas],
    layers: tuple[int, ...],
    end: int,
    backward: Callable[[_Pass], None],
) -> None:
    """Runs each canvas with a separate image stream, in batches as large as `ROWS` and the memory allow."""
    limit = allowance(adapter.device)
    for first in range(0, len(canvases), CHUNK):
        group = canvases[first : first + CHUNK]
        with torch.no_grad():
            embedded = adapter.embed(inputs, torch.stack([canvas.tokens for canvas in group]))
        size, start = min(_batch_size(embedded), len(group)), 0
        while start < len(group):
            check_interruption()
            part = slice(start, start + size)
            try:
                top, kept = _forward(adapter, inputs, select(embedded, part), layers, end, limit)
            except AllowanceError:
                if size == 1:
                    raise _too_small(limit) from None
                size //= 2
                log.info("a pass would keep more than %d bytes: continuing with %d canvases at once", limit, size)
                continue
            backward(_Pass(group[part], top, kept, last=True))
            del top, kept  # free them before the next batch
            start += size


def select(hidden: Hidden, part: slice) -> Hidden:
    """The hidden states of some canvases."""
    if hidden.canvas is None:
        return Hidden(hidden.image[part])
    return Hidden(hidden.image if len(hidden.image) == 1 else hidden.image[part], hidden.canvas[part])


def _batch_size(hidden: Hidden) -> int:
    """How many canvases have `ROWS` rows together, at least 1."""
    return max(1, ROWS // (hidden.image.shape[1] + (0 if hidden.canvas is None else hidden.canvas.shape[1])))


def _forward(
    adapter: Adapter[Any], inputs: Inputs, embedded: Hidden, layers: tuple[int, ...], end: int, limit: int
) -> tuple[Hidden, list[Tensor]]:
    """The hidden states at the output of the last layer, and the image stream at the output of each target layer."""
    with torch.no_grad():
        hidden = run_layers(adapter, embedded, inputs, range(layers[0] + 1)).split()
    kept = [hidden.image]
    with torch.enable_grad(), Meter(limit):
        for segment in _segments(layers, end):
            hidden = compiled(run_layers)(adapter, hidden, inputs, segment)
            kept.append(hidden.image)
    if end < adapter.num_layers:
        with torch.no_grad():
            top = run_layers(adapter, hidden, inputs, range(end, adapter.num_layers))
        if hidden.canvas is None or top.canvas is None:
            hidden = Hidden(_straight_through(hidden.image, top.image))
        else:
            hidden = Hidden(hidden.image, _straight_through(hidden.canvas, top.canvas))
    return hidden, kept[: len(layers)]


def _with_shared_image(
    adapter: Adapter[Any],
    inputs: Inputs,
    canvases: list[_Canvas],
    layers: tuple[int, ...],
    end: int,
    backward: Callable[[_Pass], None],
    concurrent: bool,
) -> None:
    """Runs the image stream once for all canvases, then the canvases one by one or, if `concurrent`, by `run_all`."""
    limit = allowance(adapter.device)
    with torch.no_grad():
        hidden = adapter.embed(inputs, torch.stack([canvas.tokens for canvas in canvases]))
        image, states = hidden.image, _check_canvas(hidden.canvas).split(1)
        for index in range(layers[0] + 1):
            check_interruption()
            image, context = adapter.prefix_layer(index, image, inputs)
            states = tuple(adapter.canvas_layer(index, state, context, inputs) for state in states)
        del context, hidden
    image = image.detach().requires_grad_()
    kept, contexts, meter = [image], [], Meter(limit)
    try:
        with torch.enable_grad(), meter:
            for segment in _segments(layers, end):
                image, added = compiled(_run_prefix)(adapter, image, inputs, segment)
                contexts += added
                kept.append(image)
        with torch.no_grad():
            upper = _run_prefix(adapter, image, inputs, range(end, adapter.num_layers))[1]

        def finish(index: int, state: Tensor) -> None:
            check_interruption()
            with torch.enable_grad(), Meter(limit - meter.bytes):
                canvas = compiled(_run_canvas)(adapter, state, contexts, inputs, range(layers[0] + 1, end))
            if end < adapter.num_layers:
                with torch.no_grad():
                    top = _run_canvas(adapter, canvas, upper, inputs, range(end, adapter.num_layers))
                canvas = _straight_through(canvas, top)
            last = not concurrent and index + 1 == len(canvases)
            backward(_Pass(canvases[index : index + 1], Hidden(image, canvas), kept[: len(layers)], last))

        tasks = [functools.partial(finish, index, state) for index, state in enumerate(states)]
        if concurrent:
            run_all(tasks)
        else:
            for task in tasks:
                task()
    except AllowanceError:
        raise _too_small(limit) from None


def _check_canvas(canvas: Tensor | None) -> Tensor:
    if canvas is None:
        raise AdapterError("embed: canvas must be a separate stream where has_two_streams is True, got one stream")
    return canvas
