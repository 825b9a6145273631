"""Activations and gradients at the image cells, for many targets in few passes.

Everything up to the lowest target layer runs without a graph; only the layers above it are differentiated, and only
with respect to the hidden states there. What targets share is computed once: a canvas runs forward once, and where the
image is a separate stream it runs forward once for all canvases. Each target then costs one backward pass. That is
exact, and it saves most of the time and memory of the published method.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dcam_fast.attribution.objectives import Objective, Scores, evaluate
from dcam_fast.attribution.resources import AllowanceError, Meter, allowance, compiled, current
from dcam_fast.attribution.threads import run_all, workers
from dcam_fast.models.adapter import Adapter, AdapterError, Hidden, Inputs

log = logging.getLogger(__name__)

# Hidden states that run at once: more is no faster (benchmarks/attribution/passes.py) and takes more memory.
ROWS = 4096
CHUNK = 16  # canvases that are embedded at once
SMALL_CHUNK = 3  # targets of a small model that are scored at once: a few tasks for each thread

# What becomes of the gradients behind one of the layers as they appear: index into the layers, maps int64 [n],
# activations [n, S, D] or, where all canvases have the same, [S, D], and gradients [n, S, D].
Consume = Callable[[int, Tensor, Tensor, Tensor], None]


@dataclass(frozen=True)
class Targets:
    """``T`` answer positions to explain, each at a canvas.

    Attributes:
        canvases: int64 ``[T, L]``, the answer state each target is explained at.
        positions: int64 ``[T]``, the targets.
        distractors: int64 ``[T]``, the positions that contrastive objectives subtract.
        tokens: int64 ``[T]``, the tokens produced at the targets' positions.
        maps: int64 ``[T]``, which map each target is explained by, from 0 (None: one each). Targets of one map have
            one canvas, and what is differentiated is the sum of their objectives.
    """

    canvases: Tensor
    positions: Tensor
    distractors: Tensor
    tokens: Tensor
    maps: Tensor | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def part(self, rows: slice) -> Targets:
        """Some of the targets, with a map each."""
        return Targets(self.canvases[rows], self.positions[rows], self.distractors[rows], self.tokens[rows])

    def chunks(self, size: int) -> Iterator[Targets]:
        """The targets, ``size`` at a time, with a map each."""
        return (self.part(slice(start, start + size)) for start in range(0, len(self), size))


@dataclass(frozen=True)
class Capture:
    """One layer's view of ``T`` maps: ``activations`` and ``gradients``, ``[T, S, D]``, over the image stream."""

    activations: Tensor
    gradients: Tensor


@dataclass(frozen=True)
class _Canvas:
    """A canvas ``[L]`` and the targets that are explained at it: for each map, its number and its targets' rows."""

    tokens: Tensor
    maps: tuple[tuple[int, list[int]], ...]


@dataclass(frozen=True)
class _Pass:
    """Canvases that have run forward.

    Attributes:
        canvases: C of them.
        top: their hidden states behind the last layer.
        kept: the image stream behind each target layer, ``[C, S, D]`` or ``[1, S, D]``; the first is the leaf.
        last: whether no pass after this one needs the graph below ``top``.
    """

    canvases: Sequence[_Canvas]
    top: Hidden
    kept: list[Tensor]
    last: bool


def differentiate(
    adapter: Adapter[Any],
    inputs: Inputs,
    targets: Targets,
    layers: tuple[int, ...],
    objective: Objective,
    consume: Consume,
    depth: int | None = None,
) -> None:
    """Hands the activations behind each of ``layers`` (ascending), and the gradients of the objective there, to
    ``consume``, a few maps at a time, for a small model from several threads.

    Parameters take no gradients, and the caller's autograd mode does not matter. The gradients behind a layer are gone
    before the next layer's are there, unless ``consume`` keeps them.

    Args:
        depth: how many layers above the highest explained one are differentiated; those further up count as the
            identity, which is an approximation. None: all of them.

    Raises:
        AdapterError: for a layer that cannot be explained, or where the memory is not enough for a single canvas.
    """
    adapter.check_layers(layers)
    if depth is not None and depth < 1:
        raise ValueError(f"attribute: depth must be at least one layer, got {depth}")
    if not len(targets):
        return
    end = adapter.num_layers if depth is None else min(layers[-1] + 1 + depth, adapter.num_layers)

    def back(one: _Pass) -> None:
        rounds = max(len(canvas.maps) for canvas in one.canvases)
        for index in range(rounds):
            # one map of every canvas that has another: canvases do not see each other, so a sum tells them apart
            slots = [slot for slot, canvas in enumerate(one.canvases) if index < len(canvas.maps)]
            chosen = [one.canvases[slot].maps[index] for slot in slots]
            with torch.enable_grad():
                scores = [
                    _score(adapter, inputs, one.top, slot, rows, targets, objective)
                    for slot, (_, rows) in zip(slots, chosen, strict=True)
                ]
                score = torch.stack(scores).sum()
            hand = functools.partial(_hand, consume, one.kept, slots, torch.tensor([number for number, _ in chosen]))
            _pull(score, one.kept, hand, again=index + 1 < rounds or not one.last)

    if not adapter.has_two_streams:
        _whole(adapter, inputs, _grouped(targets), layers, end, back)
        return
    # Several canvases at once keep more, would call each other's hooks on the layers above the lowest, and call the
    # objective from several threads.
    concurrent = workers() > 1 and len(layers) == 1 and current().max_memory is None and not callable(objective)
    _with_shared_image(adapter, inputs, _grouped(targets), layers, end, back, concurrent)


def capture(
    adapter: Adapter[Any], inputs: Inputs, targets: Targets, layers: tuple[int, ...], objective: Objective
) -> tuple[Capture, ...]:
    """All of what `differentiate` hands out, one entry a layer: for those who need several layers of a map at once."""
    parts: list[dict[int, tuple[Tensor, Tensor]]] = [{} for _ in layers]

    def keep(layer: int, maps: Tensor, activations: Tensor, gradients: Tensor) -> None:
        parts[layer] |= zip(maps.tolist(), zip(activations.expand_as(gradients), gradients, strict=True), strict=True)

    differentiate(adapter, inputs, targets, layers, objective, keep)
    pairs = [[of[number] for number in sorted(of)] for of in parts]
    return tuple(Capture(torch.stack([a for a, _ in of]), torch.stack([g for _, g in of])) for of in pairs)


def _grouped(targets: Targets) -> list[_Canvas]:
    """The different canvases, those with as many maps side by side."""
    different, owners = torch.unique(targets.canvases, dim=0, return_inverse=True)
    members: list[dict[int, list[int]]] = [{} for _ in different]
    numbers = range(len(targets)) if targets.maps is None else targets.maps.tolist()
    for row, (owner, number) in enumerate(zip(owners.tolist(), numbers, strict=True)):
        members[owner].setdefault(number, []).append(row)
    canvases = [_Canvas(tokens, tuple(maps.items())) for tokens, maps in zip(different, members, strict=True)]
    return sorted(canvases, key=lambda canvas: len(canvas.maps))


def _score(
    adapter: Adapter[Any],
    inputs: Inputs,
    top: Hidden,
    slot: int,
    rows: list[int],
    targets: Targets,
    objective: Objective,
) -> Tensor:
    """Sum of the objectives of the targets in ``rows`` at canvas ``slot``. The LM head sees only their rows, and those
    of one canvas at a time, so that a target's rounding does not depend on its company."""
    asked = torch.cat((targets.positions[rows], targets.distractors[rows]))[None]
    logits = adapter.logits(_rows(top, slice(slot, slot + 1)), asked, inputs)[0]
    return evaluate(objective, Scores(logits[: len(rows)], logits[len(rows) :], targets.tokens[rows])).sum()


def _pull(score: Tensor, kept: list[Tensor], hand: Callable[[int, Tensor], None], again: bool) -> None:
    """One backward pass: the gradient behind each layer as it comes by, the lowest at the end."""
    hooks = [state.register_hook(functools.partial(hand, index)) for index, state in enumerate(kept) if index]
    try:
        (lowest,) = torch.autograd.grad(score, kept[0], retain_graph=again)
    finally:
        for hook in hooks:
            hook.remove()
    hand(0, lowest)


def _hand(
    consume: Consume, kept: list[Tensor], slots: list[int], numbers: Tensor, layer: int, gradients: Tensor
) -> None:
    activations = kept[layer].detach()
    if len(activations) == 1:
        activations = activations[0]
    elif len(slots) < len(gradients):
        activations, gradients = activations[slots], gradients[slots]
    consume(layer, numbers.to(gradients.device), activations, gradients)


# ------------------------------------------------------------------------------------------------------------- forward


def _run(adapter: Adapter[Any], hidden: Hidden, inputs: Inputs, layers: range) -> Hidden:
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
    """The differentiated layers, cut behind every explained one: what a compiler is to leave alone."""
    return [range(lower + 1, upper + 1) for lower, upper in itertools.pairwise((*layers, end - 1))]


def _straight_through(below: Tensor, above: Tensor) -> Tensor:
    """The values of ``above`` with the gradient of ``below``."""
    return below + (above - below).detach()


def _too_small(limit: int) -> AdapterError:
    return AdapterError(
        f"attribute: max_memory must be enough for the hidden states of one canvas, got {limit} bytes; "
        "a higher layer or a lower precision needs less"
    )


def _whole(
    adapter: Adapter[Any],
    inputs: Inputs,
    canvases: list[_Canvas],
    layers: tuple[int, ...],
    end: int,
    back: Callable[[_Pass], None],
) -> None:
    """Every canvas with an image stream of its own: batches as large as ``ROWS`` and the memory allow."""
    limit = allowance(adapter.device)
    for first in range(0, len(canvases), CHUNK):
        group = canvases[first : first + CHUNK]
        with torch.no_grad():
            embedded = adapter.embed(inputs, torch.stack([canvas.tokens for canvas in group]))
        size, start = min(_fitting(embedded), len(group)), 0
        while start < len(group):
            part = slice(start, start + size)
            try:
                top, kept = _climb(adapter, inputs, _rows(embedded, part), layers, end, limit)
            except AllowanceError:
                if size == 1:
                    raise _too_small(limit) from None
                size //= 2
                log.info("a pass would keep more than %d bytes: going on with %d canvases at once", limit, size)
                continue
            back(_Pass(group[part], top, kept, last=True))
            del top, kept  # before the next batch needs the room
            start += size


def _rows(hidden: Hidden, part: slice) -> Hidden:
    """Some of the canvases."""
    if hidden.canvas is None:
        return Hidden(hidden.image[part])
    return Hidden(hidden.image if len(hidden.image) == 1 else hidden.image[part], hidden.canvas[part])


def _fitting(hidden: Hidden) -> int:
    """How many canvases make up `ROWS`."""
    return max(1, ROWS // (hidden.image.shape[1] + (0 if hidden.canvas is None else hidden.canvas.shape[1])))


def _climb(
    adapter: Adapter[Any], inputs: Inputs, embedded: Hidden, layers: tuple[int, ...], end: int, limit: int
) -> tuple[Hidden, list[Tensor]]:
    """The states behind the last layer, and the image stream behind each explained one."""
    with torch.no_grad():
        hidden = _run(adapter, embedded, inputs, range(layers[0] + 1)).split()
    kept = [hidden.image]
    with torch.enable_grad(), Meter(limit):
        for segment in _segments(layers, end):
            hidden = compiled(_run)(adapter, hidden, inputs, segment)
            kept.append(hidden.image)
    if end < adapter.num_layers:
        with torch.no_grad():
            top = _run(adapter, hidden, inputs, range(end, adapter.num_layers))
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
    back: Callable[[_Pass], None],
    concurrent: bool,
) -> None:
    """The image stream once for all canvases, which follow one by one or, if `concurrent`, on `run_all`'s threads."""
    limit = allowance(adapter.device)
    with torch.no_grad():
        hidden = adapter.embed(inputs, torch.stack([canvas.tokens for canvas in canvases]))
        image, states = hidden.image, _require(hidden.canvas).split(1)
        for index in range(layers[0] + 1):
            image, context = adapter.prefix_layer(index, image, inputs)
            states = tuple(adapter.canvas_layer(index, state, context, inputs) for state in states)
        del context, hidden
    image = image.detach().requires_grad_()
    kept, contexts, meter = [image], [], Meter(limit)
    try:
        with torch.enable_grad(), meter:
            for segment in _segments(layers, end):
                image, some = compiled(_run_prefix)(adapter, image, inputs, segment)
                contexts += some
                kept.append(image)
        with torch.no_grad():
            upper = _run_prefix(adapter, image, inputs, range(end, adapter.num_layers))[1]

        def finish(index: int, state: Tensor) -> None:
            with torch.enable_grad(), Meter(limit - meter.bytes):
                canvas = compiled(_run_canvas)(adapter, state, contexts, inputs, range(layers[0] + 1, end))
            if end < adapter.num_layers:
                with torch.no_grad():
                    top = _run_canvas(adapter, canvas, upper, inputs, range(end, adapter.num_layers))
                canvas = _straight_through(canvas, top)
            last = not concurrent and index + 1 == len(canvases)
            back(_Pass(canvases[index : index + 1], Hidden(image, canvas), kept[: len(layers)], last))

        tasks = [functools.partial(finish, index, state) for index, state in enumerate(states)]
        if concurrent:
            run_all(tasks)
        else:
            for task in tasks:
                task()
    except AllowanceError:
        raise _too_small(limit) from None


def _require(canvas: Tensor | None) -> Tensor:
    if canvas is None:
        raise AdapterError(
            "attribute: an adapter with two streams must embed the canvas as a stream of its own, got one"
        )
    return canvas


# -------------------------------------------------------------------------------------------------------------- replay


@torch.no_grad()
def log_probabilities(adapter: Adapter[Any], inputs: Inputs, targets: Targets) -> Tensor:
    """Log-probability ``[T]`` of every target's token at its canvas."""
    hidden = _run(adapter, adapter.embed(inputs, targets.canvases), inputs, range(adapter.num_layers))
    return _read(adapter, hidden, inputs, targets)


@torch.no_grad()
def log_probabilities_without(
    adapter: Adapter[Any], inputs: Inputs, targets: Targets, layer: int, cells: Tensor, ablated: Tensor
) -> tuple[Tensor, Tensor]:
    """`log_probabilities` of ``T`` targets, and the same with what some cells hold at the output of ``layer`` replaced
    by the mean of the other cells: ``[T]`` each.

    Args:
        adapter, inputs, targets: as in `capture`.
        layer: where to intervene; only the layers above it run once per target.
        cells: int64 ``[N]``, rows of the image stream.
        ablated: bool ``[T, N]``, the cells that each target has to do without.
    """
    below = _run(adapter, adapter.embed(inputs, targets.canvases), inputs, range(layer + 1))
    above = range(layer + 1, adapter.num_layers)

    @torch.no_grad()
    def whole() -> Tensor:
        return _read(adapter, _run(adapter, below, inputs, above), inputs, targets)

    @torch.no_grad()
    def without(part: slice) -> Tensor:
        rows = _rows(below, part).split()
        states = rows.image[:, cells]
        kept = (~ablated[part]).to(states.dtype)[..., None]
        mean = (states * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)
        image = rows.image.index_copy(1, cells, torch.where(ablated[part][..., None], mean, states))
        hidden = _run(adapter, Hidden(image, rows.canvas), inputs, above)
        return _read(adapter, hidden, inputs, targets.part(part))

    size = SMALL_CHUNK if adapter.small else len(targets)
    tasks: list[Callable[[], Tensor]] = [whole]
    tasks += [functools.partial(without, slice(start, start + size)) for start in range(0, len(targets), size)]
    first, *others = run_all(tasks)
    return first, torch.cat(others)


def _read(adapter: Adapter[Any], hidden: Hidden, inputs: Inputs, targets: Targets) -> Tensor:
    logits = adapter.logits(hidden, targets.positions[:, None], inputs)[:, 0]
    return logits.log_softmax(-1).gather(1, targets.tokens[:, None])[:, 0]
