"""`check_adapter`: conformance checks of an adapter, for the author of a model family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcam_fast.attribution.engine import capture
from dcam_fast.attribution.methods.gradient_cam import build_targets
from dcam_fast.attribution.target_batch import TargetBatch
from dcam_fast.models.adapter import NO_MASK, OPEN, Adapter, AdapterError, Hidden, Inputs, Trajectory
from dcam_fast.torch_modes import own_modes
from dcam_fast.words import is_sign

TOLERANCE = 1e-5  # relative, of gradients in float32: above rounding, far below the effect of a wrong graph


class ConformanceError(AssertionError):
    """An adapter breaks the interface.

    Attributes:
        findings: one sentence for each fault.
    """

    def __init__(self, name: str, findings: list[str]) -> None:
        self.findings = tuple(findings)
        listed = "\n".join(f"  {number}. {finding}" for number, finding in enumerate(findings, 1))
        super().__init__(f"{name}: {len(findings)} promises of the adapter interface are broken\n{listed}")


@dataclass(frozen=True)
class _Case:
    adapter: Adapter[Any]
    image: NDArray[np.uint8]
    inputs: Inputs
    trajectory: Trajectory
    model_states: tuple[dict[str, object], dict[str, object]]  # before and after


@own_modes()
def check_adapter(adapter: Adapter[Any], image: NDArray[np.uint8] | None = None, prompt: str | None = None) -> None:
    """Checks everything that the adapter interface promises and a caller can observe.

    It generates one answer and runs a few passes. A small model with random weights is enough.

    Args:
        adapter: the adapter to check.
        image: uint8 `[H, W, 3]`, not square, so that swapped rows and columns are found (None: noise, 240 x 320).
        prompt: the question (None: the adapter's default).

    Raises:
        ConformanceError: if there is a fault; it lists all of them.

    Example:
        >>> from dcam_fast.models import load
        >>> check_adapter(load("tiny"))
    """
    if image is None:
        image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    question = adapter.default_prompt if prompt is None else prompt
    before = _state_of(adapter)
    try:
        inputs = adapter.encode(image, question)
        trajectory = adapter.generate(inputs)
    except Exception as error:  # any error of the author's code is a finding
        raise ConformanceError(adapter.name, [f"encode and generate must work, got {error!r}"]) from error
    case = _Case(adapter, image, inputs, trajectory, (before, _state_of(adapter)))
    findings: list[str] = []
    with adapter.frozen():
        for check in CHECKS:
            try:
                findings += check(case)
            except Exception as error:  # the other checks still run
                findings.append(f"{check.__name__.strip('_').replace('_', ' ')}: must not fail, got {error!r}")
    if findings:
        raise ConformanceError(adapter.name, findings)


# -------------------------------------------------------------------------------------------------------------- views


def _views(case: _Case) -> Iterator[str]:
    if not case.inputs.views:
        yield "encode: views must be at least one grid, got none"
        return
    rows = _embedded(case).image.shape[1]
    height, width = case.image.shape[:2]
    for view in case.inputs.views:
        name = f"view {view.name!r}"
        cells, boxes = view.cells, view.boxes
        if cells.ndim != 2 or not cells.numel() or cells.dtype != torch.int64:
            yield f"{name}: cells must be int64 [h, w], got {cells.dtype} {list(cells.shape)}"
            continue
        if int(cells.min()) < 0 or int(cells.max()) >= rows:
            yield (
                f"{name}: cells must be rows of the image stream, 0 to {rows - 1}, got {int(cells.min())} to "
                f"{int(cells.max())}"
            )
        if len(cells.unique()) != cells.numel():
            yield f"{name}: cells must be distinct, got {cells.numel() - len(cells.unique())} that occur twice"
        if boxes.shape != (*cells.shape, 4) or boxes.dtype != torch.float32:
            yield f"{name}: boxes must be float32 {[*cells.shape, 4]}, got {boxes.dtype} {list(boxes.shape)}"
            continue
        x0, y0, x1, y1 = boxes.unbind(-1)
        if not bool((x0 < x1).all() and (y0 < y1).all()):
            yield f"{name}: boxes must be (x0, y0, x1, y1) with x0 < x1 and y0 < y1, got some that are not"
        if bool((x1 <= 0).any() or (y1 <= 0).any() or (x0 >= width).any() or (y0 >= height).any()):
            yield f"{name}: boxes must be pixels of the {height} x {width} image, got some outside it"
        if bool((x0.diff(dim=1) <= 0).any() or (y0.diff(dim=0) <= 0).any()):
            yield f"{name}: boxes must go right along a row and down along a column, got another order"


def _painted_cells(case: _Case) -> Iterator[str]:
    """When a cell's pixels change, that cell's row of layer 0's input must change most."""
    view = case.inputs.views[0]
    h, w = view.cells.shape
    spread = {(0, 0), (0, w - 1), (h - 1, 0), (h - 1, w - 1), (h // 2, w // 3), (h // 3, w // 2)}
    blank = np.full_like(case.image, 128)
    before = _cells_of(case, blank)
    wrong = []
    for row, column in sorted(spread):
        x0, y0, x1, y1 = (round(edge) for edge in view.boxes[row, column].clamp(min=0).tolist())
        painted = blank.copy()
        painted[y0:y1, x0:x1] = np.random.default_rng(1).integers(0, 256, painted[y0:y1, x0:x1].shape)
        change = (_cells_of(case, painted) - before).norm(dim=-1)
        found = divmod(int(change.argmax()), w)
        if not bool(change.isfinite().all()) or float(change.max()) == 0:
            yield f"view {view.name!r}: painting cell {(row, column)} must change its hidden state, got no change"
        elif found != (row, column):
            wrong.append(f"{(row, column)} -> {found}")
    if wrong:
        yield (
            f"view {view.name!r}: the pixels of a cell's box must change that cell's hidden state most, "
            f"got others (painted -> changed): {', '.join(wrong)}"
        )


@torch.no_grad()
def _cells_of(case: _Case, image: NDArray[np.uint8]) -> Tensor:
    inputs = case.adapter.encode(image, case.inputs.prompt)
    hidden = case.adapter.embed(inputs, _canvases(case, "remask"))
    return hidden.image[0, case.inputs.views[0].cells.flatten()].float()


# --------------------------------------------------------------------------------------------------------- generation


def _trajectory(case: _Case) -> Iterator[str]:
    tokens, steps, length = case.trajectory.tokens, case.trajectory.steps, case.trajectory.length
    if steps is None:
        yield "generate: steps must be those of the generation, got None"
        return
    if tokens.ndim != 1 or tokens.shape != steps.shape or tokens.dtype != torch.int64 or steps.dtype != torch.int64:
        yield f"generate: tokens and steps must be int64 [L], got {list(tokens.shape)} and {list(steps.shape)}"
        return
    if not 0 <= length <= len(tokens):
        yield f"generate: length must be 0 to {len(tokens)}, got {length}"
    canvases = case.trajectory.canvases
    if bool((steps < 0).any() or (steps == OPEN).any()):
        yield "generate: steps must be 0 or more and none open in a finished answer, got others"
    elif canvases is not None and int(steps.max()) >= len(canvases):
        yield f"generate: steps must be below {len(canvases)}, the number of canvases, got {int(steps.max())}"
    if case.adapter.mask_token == NO_MASK and canvases is None:
        yield "generate: the trajectory of a family without a mask token must have its canvases, got none"
    if canvases is None and case.adapter.mask_token in tokens.tolist():
        yield "generate: tokens of a finished answer must not be the mask token, got some that are"


def _determinism(case: _Case) -> Iterator[str]:
    again = case.adapter.generate(case.adapter.encode(case.image, case.inputs.prompt))
    if not _same_answer(again, case.trajectory):
        yield "generate: the same question must have the same answer, got another the second time"
    canvas = _canvases(case, "remask")
    if not _logits(case, canvas).equal(_logits(case, canvas)):
        yield "layer: the same states must give the same logits, got others the second time"


def _replay(case: _Case) -> Iterator[str]:
    """At the state in which a token was unmasked, the model's best guess must be that token."""
    count = len(case.trajectory.tokens)
    logits = torch.cat([_logits(case, canvas[None]) for canvas in _canvases(case, "committed", count)])
    chosen = logits[torch.arange(count), torch.arange(count)]
    if case.adapter.mask_token != NO_MASK:
        chosen[:, case.adapter.mask_token] = -torch.inf
    wrong = (chosen.argmax(-1) != case.trajectory.tokens)[: max(case.trajectory.length, 1)]
    if bool(wrong.any()):
        yield (
            "replay: at the state that committed a token the model must prefer that token, as it did in generation, "
            f"got others at positions {wrong.nonzero().flatten().tolist()}"
        )


def _stepping(case: _Case) -> Iterator[str]:
    last = None
    try:
        for so_far in case.adapter.denoise(case.inputs):
            if last is not None:
                before, now = last.known_steps("committed"), so_far.known_steps("committed")
                kept = before != OPEN
                if case.adapter.mask_token == NO_MASK:  # such a family may take tokens back
                    kept &= before == now
                if bool(((now != before) | (so_far.tokens != last.tokens))[kept].any()):
                    yield "denoise: a committed token must stay committed at its step, got one that did not"
                    return
            last = so_far
    except AdapterError:
        return  # stepping is optional
    if last is None or not _same_answer(last, case.trajectory):
        yield "denoise: the last trajectory must be that of generate, got another"


def _given(case: _Case) -> Iterator[str]:
    """The generated tokens, given, must be the answer that generation left, at every state that needs no steps."""
    finished, count = case.trajectory, len(case.trajectory.tokens)
    try:
        given = case.adapter.given(finished.tokens.tolist())
    except AdapterError:
        return  # given answers are optional
    if not given.tokens.equal(finished.tokens) or given.length != finished.length or given.steps is not None:
        yield "given: the tokens of a whole canvas must be kept, with the length of the text and no steps, got others"
        return
    for state in ("remask", "first", "final"):
        if not _canvases(replace(case, trajectory=given), state, count).equal(_canvases(case, state, count)):
            yield f"given: the state {state!r} of the generated tokens must be that of the generation, got another"


def _words(case: _Case) -> Iterator[str]:
    length = case.trajectory.length
    runs = [word.positions for word in case.adapter.words(case.trajectory)]
    held = {position for run in runs for position in run}
    texts = (case.adapter.decode(case.trajectory.tokens[position : position + 1]) for position in range(length))
    spoken = {position for position, text in enumerate(texts) if not is_sign(text)}
    in_order = all(run and list(run) == sorted(set(run)) for run in runs) and runs == sorted(runs, key=min)
    if not in_order or not spoken <= held <= set(range(length)):
        yield (
            f"words: positions must be from 0 to {length - 1}, in order, and hold every token with a letter or digit, "
            f"got {runs}"
        )
    if not isinstance(case.adapter.decode(case.trajectory.tokens), str):
        yield "decode: text must be a str, got something else"


# ---------------------------------------------------------------------------------------------------------- gradients


def _unchanged_model(case: _Case) -> Iterator[str]:
    before, after = case.model_states
    changed = [name for name in sorted(before | after) if not _same(before.get(name), after.get(name))]
    if changed:
        yield f"encode and generate must leave the model as it was, got changes: {', '.join(changed[:3])}"


def _state_of(adapter: Adapter[Any]) -> dict[str, object]:
    """Modes, flags and values of the model, by name."""
    model = torch.nn.Module() if adapter.model is None else adapter.model
    state: dict[str, object] = {f"{name}.training": part.training for name, part in model.named_modules()}
    state |= {f"{name}.requires_grad": value.requires_grad for name, value in model.named_parameters()}
    return state | {name: value.detach().clone() for name, value in model.state_dict().items()}


def _same(before: object, after: object) -> bool:
    return before.equal(after) if isinstance(before, Tensor) and isinstance(after, Tensor) else before == after


def _target_layers(case: _Case) -> Iterator[str]:
    adapter = case.adapter
    for layers in ((adapter.num_layers - 1,), (adapter.num_layers,), (-1,), ()):
        try:
            adapter.check_layers(layers)
        except AdapterError:
            continue
        yield f"check_layers: layers {layers} of {adapter.num_layers} must be rejected, got no error"
    try:
        adapter.check_layers(adapter.default_layers)
    except AdapterError as error:
        yield f"default_layers must be layers that can be explained, got {adapter.default_layers}: {error}"


def _gradients(case: _Case) -> Iterator[str]:
    adapter = case.adapter
    layers = tuple(range(adapter.num_layers - 1))
    targets = _targets(case)
    cells = case.inputs.views[0].cells.flatten()
    captured = capture(adapter, case.inputs, targets, layers, "logit")
    full = _full_gradients(case, targets)
    for layer, part in enumerate(captured):
        at_cells = part.gradients[0, cells]
        if not bool(at_cells.isfinite().all()):
            yield f"layer {layer}: gradients at the image cells must be finite, got some that are not"
        elif float(at_cells.abs().max()) == 0:
            yield f"layer {layer}: gradients must reach the image cells, got zeros"
        elif float((part.gradients[0] - full[layer]).abs().max()) > TOLERANCE * float(full[layer].abs().max()):
            yield f"layer {layer}: gradients of the split run must be those of the full graph, got others"


def _full_gradients(case: _Case, targets: TargetBatch) -> list[Tensor]:
    """Gradients through `layer` alone, with the graph from layer 0 on. The split run must equal them."""
    adapter, states = case.adapter, []
    with torch.enable_grad():
        embedded = adapter.embed(case.inputs, targets.canvases[:1])
        hidden = Hidden(embedded.image.detach().requires_grad_(), embedded.canvas)
        for index in range(adapter.num_layers):
            hidden = adapter.layer(index, hidden, case.inputs)
            states.append(hidden.image)
        rows = targets.positions[:1, None]
        logit = adapter.logits(hidden, rows, case.inputs)[0, 0, targets.tokens[0]]
        grads = torch.autograd.grad(logit, states[:-1], allow_unused=True, materialize_grads=True)
    return [gradient[0] for gradient in grads]


def _two_streams(case: _Case) -> Iterator[str]:
    adapter, canvas = case.adapter, _canvases(case, "remask")
    hidden = _embedded(case)
    if adapter.has_two_streams != (hidden.canvas is not None):
        yield (
            "has_two_streams must be True exactly where embed returns a separate canvas stream, "
            f"got {adapter.has_two_streams}"
        )
        return
    if not adapter.has_two_streams or hidden.canvas is None:
        return
    with torch.no_grad():
        image, stream = hidden.image, hidden.canvas
        for index in range(adapter.num_layers):
            image, context = adapter.prefix_layer(index, image, case.inputs)
            stream = adapter.canvas_layer(index, stream, context, case.inputs)
        rows = torch.arange(len(case.trajectory.tokens), device=stream.device)[None]
        logits = adapter.logits(Hidden(image, stream), rows, case.inputs)
    if not torch.allclose(logits, _logits(case, canvas), rtol=1e-4, atol=1e-4):
        yield "prefix_layer and canvas_layer must do together what layer does, got other logits"


def _batches(case: _Case) -> Iterator[str]:
    """Canvases must not attend to each other."""
    canvases = torch.cat((_canvases(case, "first"), _canvases(case, "final")))
    together = _logits(case, canvases)
    alone = torch.cat([_logits(case, canvas[None]) for canvas in canvases])
    if together.shape != alone.shape or not torch.allclose(together, alone, rtol=1e-3, atol=1e-3):
        yield "layer: several canvases at once must have the logits that each has alone, got others"
    if together.dtype != torch.float32:
        yield f"logits must be float32, got {together.dtype}"


# ------------------------------------------------------------------------------------------------------------ helpers


def _targets(case: _Case, state: str = "remask", count: int = 1) -> TargetBatch:
    positions = torch.arange(count, device=case.trajectory.tokens.device)
    return build_targets(case.trajectory, positions, state, case.adapter.mask_token)  # type: ignore[arg-type]


def _same_answer(one: Trajectory, other: Trajectory) -> bool:
    return one.tokens.equal(other.tokens) and one.known_steps("committed").equal(other.known_steps("committed"))


def _canvases(case: _Case, state: str, count: int = 1) -> Tensor:
    return _targets(case, state, count).canvases


@torch.no_grad()
def _embedded(case: _Case) -> Hidden:
    return case.adapter.embed(case.inputs, _canvases(case, "remask"))


@torch.no_grad()
def _logits(case: _Case, canvases: Tensor) -> Tensor:
    """Logits of all positions, `[C, L, V]`."""
    adapter = case.adapter
    hidden = adapter.embed(case.inputs, canvases)
    for index in range(adapter.num_layers):
        hidden = adapter.layer(index, hidden, case.inputs)
    rows = torch.arange(len(case.trajectory.tokens), device=canvases.device).expand(len(canvases), -1)
    return adapter.logits(hidden, rows, case.inputs)


CHECKS: tuple[Callable[[_Case], Iterator[str]], ...] = (
    _views,
    _painted_cells,
    _trajectory,
    _determinism,
    _replay,
    _stepping,
    _given,
    _words,
    _unchanged_model,
    _target_layers,
    _gradients,
    _two_streams,
    _batches,
)
