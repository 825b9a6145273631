"""How passes are shared, and what the alternatives would take: the trial behind the rule in docs/attribution.md.
``./run python -m dcam_fast.benchmarks.attribution.passes`` prints milliseconds on the embedded model."""

from __future__ import annotations

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


def ours(adapter: Any, inputs: Inputs, targets: TargetBatch, block: int, rows: int) -> None:
    """The engine, with so many rows at once."""
    before, engine.ROWS = engine.ROWS, rows
    try:
        differentiate(adapter, inputs, targets, (block,), "logprob", lambda *_: None)
    finally:
        engine.ROWS = before


def alternative(adapter: Any, inputs: Inputs, targets: TargetBatch, block: int, batched: bool) -> None:
    """A copy of the tail for every target; or one tail for every canvas and a batched vector-Jacobian product."""
    canvases, owners = torch.unique(targets.canvases, dim=0, return_inverse=True)
    with torch.no_grad():
        hidden = adapter.embed(inputs, canvases if batched else targets.canvases)
        for index in range(block + 1):
            hidden = adapter.layer(index, hidden, inputs)
        if not batched:
            hidden = hidden.split()
    image = hidden.image.detach().requires_grad_()
    hidden = Hidden(image, hidden.canvas)
    for index in range(block + 1, adapter.num_layers):
        hidden = adapter.layer(index, hidden, inputs)
    rows = torch.arange(targets.canvases.shape[1]).expand(len(canvases if batched else targets), -1)
    logits = adapter.logits(hidden, rows, inputs).log_softmax(-1)
    if batched:
        scores = logits[owners, targets.positions, targets.tokens]
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
    """Prints one line a topology, answer state and way."""
    image = scenes.sample_scene(np.random.default_rng(12), objects=3).image
    for attention in ("prefix", "joint"):
        adapter = TinyAdapter(attention=attention)  # type: ignore[arg-type]
        inputs = adapter.encode(image, scenes.CAPTION_PROMPT)
        trajectory = adapter.generate(inputs)
        for state in ("remask", "first"):
            targets = build_targets(trajectory, torch.arange(WORDS), state, adapter.mask_token)  # type: ignore[arg-type]
            asked = (adapter, inputs, targets, adapter.default_layers[0])
            ways: dict[str, Callable[[], None]] = {
                f"shared, {rows} rows at once": lambda asked=asked, rows=rows: ours(*asked, rows)  # type: ignore[misc]
                for rows in (512, 2048, 4096, 16384)
            }
            ways["a tail for every target"] = lambda asked=asked: alternative(*asked, False)  # type: ignore[misc]
            ways["batched vector-Jacobian product"] = lambda asked=asked: alternative(*asked, True)  # type: ignore[misc]
            for way, run in ways.items():
                typer.echo(f"{attention:7} {state:7} {way:32} {milliseconds(run, repeats):8.1f} ms")


if __name__ == "__main__":
    typer.run(main)
