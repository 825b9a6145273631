"""Checks of the passes through the layers, and that they leave the model as it was."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dcam_fast.attribution.engine import capture
from dcam_fast.attribution.target_batch import TargetBatch
from dcam_fast.models.adapter import AdapterError, Hidden
from dcam_fast.testing.cases import Case, canvases_at, embedded_case, logits_of, targets_at

TOLERANCE = 1e-5  # relative, of gradients in float32: above rounding, far below the effect of a wrong graph


def check_unchanged_model(case: Case) -> Iterator[str]:
    """Encoding and generating leave modes, flags and values of the model as they were."""
    before, after = case.model_states
    changed = [name for name in sorted(before | after) if not _same(before.get(name), after.get(name))]
    if changed:
        yield f"encode and generate must leave the model as it was, got changes: {', '.join(changed[:3])}"


def _same(before: object, after: object) -> bool:
    return before.equal(after) if isinstance(before, Tensor) and isinstance(after, Tensor) else before == after


def check_target_layers(case: Case) -> Iterator[str]:
    """Layers that cannot be explained are rejected; the default ones are not."""
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


def check_gradients(case: Case) -> Iterator[str]:
    """Gradients reach the cells, and the split run has those of the full graph."""
    adapter = case.adapter
    layers = tuple(range(adapter.num_layers - 1))
    targets = targets_at(case)
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


def _full_gradients(case: Case, targets: TargetBatch) -> list[Tensor]:
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


def check_two_streams(case: Case) -> Iterator[str]:
    """Prefix and canvas layers together do what `layer` does."""
    adapter, canvas = case.adapter, canvases_at(case, "remask")
    hidden = embedded_case(case)
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
    if not torch.allclose(logits, logits_of(case, canvas), rtol=1e-4, atol=1e-4):
        yield "prefix_layer and canvas_layer must do together what layer does, got other logits"


def check_batches(case: Case) -> Iterator[str]:
    """Canvases must not attend to each other."""
    canvases = torch.cat((canvases_at(case, "first"), canvases_at(case, "final")))
    together = logits_of(case, canvases)
    alone = torch.cat([logits_of(case, canvas[None]) for canvas in canvases])
    if together.shape != alone.shape or not torch.allclose(together, alone, rtol=1e-3, atol=1e-3):
        yield "layer: several canvases at once must have the logits that each has alone, got others"
    if together.dtype != torch.float32:
        yield f"logits must be float32, got {together.dtype}"
