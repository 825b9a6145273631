"""Speed of the alternatives to the shared passes that docs/attribution.md describes.

Run: `./run python -m dcam_fast.benchmarks.attribution.passes`. It prints milliseconds on the embedded model.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
import typer

from dcam_fast import scenes
from dcam_fast.attribution import engine
from dcam_fast.attribution.engine import differentiate
from dcam_fast.attribution.methods.gradient_cam import build_targets
from dcam_fast.attribution.target_batch import TargetBatch
from dcam_fast.models.adapter import Hidden, Inputs
from dcam_fast.models.tiny.adapter import TinyAdapter

WORDS = 11


def ours(adapter: Any, inputs: Inputs, targets: TargetBatch, layer: int, rows: int) -> None:
    """The engine, with at most `rows` rows in a batch."""
    before, engine.ROWS = engine.ROWS, rows
    try:
        differentiate(adapter, inputs, targets, (layer,), "logprob", lambda *_: None)
    finally:
        engine.ROWS = before


def alternative(adapter: Any, inputs: Inputs, targets: TargetBatch, layer: int, batched: bool) -> None:
    """One copy of the tail per target, or one per canvas with a batched vector-Jacobian product."""
    canvases, canvas_index = torch.unique(targets.canvases, dim=0, return_inverse=True)
    with torch.no_grad():
        hidden = adapter.embed(inputs, canvases if batched else targets.canvases)
        for index in range(layer + 1):
            hidden = adapter.layer(index, hidden, inputs)
        if not batched:
            hidden = hidden.split()
    image = hidden.image.detach().requires_grad_()
    hidden = Hidden(image, hidden.canvas)
    for index in range(layer + 1, adapter.num_layers):
        hidden = adapter.layer(index, hidden, inputs)
    rows = torch.arange(targets.canvases.shape[1]).expand(len(canvases if batched else targets), -1)
    logits = adapter.logits(hidden, rows, inputs).log_softmax(-1)
    if batched:
        scores = logits[canvas_index, targets.positions, targets.tokens]
        torch.autograd.grad(scores, image, torch.eye(len(targets)), is_grads_batched=True)
    else:
        torch.autograd.grad(logits[range(len(targets)), targets.positions, targets.tokens].sum(), image)


def milliseconds(run: Callable[[], None], repeats: int) -> float:
    times = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times[2:])


def main(repeats: Annotated[int, typer.Option(help="Runs of each.")] = 15) -> None:
    """Prints one line per topology, answer state and alternative."""
    image = scenes.sample_scene(np.random.default_rng(12), objects=3).image
    for attention in ("prefix", "joint"):
        adapter = TinyAdapter(attention=attention)  # type: ignore[arg-type]
        inputs = adapter.encode(image, scenes.CAPTION_PROMPT)
        trajectory = adapter.generate(inputs)
        for state in ("remask", "first"):
            targets = build_targets(trajectory, torch.arange(WORDS), state, adapter.mask_token)  # type: ignore[arg-type]
            arguments = (adapter, inputs, targets, adapter.default_layers[0])
            alternatives: dict[str, Callable[[], None]] = {
                f"shared, {rows} rows at once": functools.partial(ours, *arguments, rows)
                for rows in (512, 2048, 4096, 16384)
            }
            alternatives["one tail per target"] = functools.partial(alternative, *arguments, False)
            alternatives["batched vector-Jacobian product"] = functools.partial(alternative, *arguments, True)
            for label, run in alternatives.items():
                typer.echo(f"{attention:7} {state:7} {label:32} {milliseconds(run, repeats):8.1f} ms")


if __name__ == "__main__":
    typer.run(main)
