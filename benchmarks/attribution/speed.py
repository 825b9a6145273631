"""Attribution of 8 words by the published method and by this package, on one model and machine.

Run: `./run python -m dcam_fast.benchmarks.attribution.speed --out benchmarks/results/DATE-attribution.json`.
Both must give the same gradients before anything is timed. Times are medians. Memory is the peak above the memory of
one denoising step without gradients.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from dcam_fast import models, scenes
from dcam_fast.attribution import GradientCAM
from dcam_fast.attribution.answer import Answer
from dcam_fast.attribution.answer_states import State
from dcam_fast.attribution.engine import capture
from dcam_fast.attribution.methods.gradient_cam import build_targets, maps_of_targets
from dcam_fast.benchmarks.attribution import published
from dcam_fast.benchmarks.attribution.memory import PeakMemory
from dcam_fast.benchmarks.attribution.shaped import Shape, ShapedAdapter
from dcam_fast.benchmarks.results import header, write_result
from dcam_fast.models.adapter import Adapter, Inputs, Trajectory

WORDS = 8
AGREE = {torch.float32: 1e-5, torch.bfloat16: 5e-2}  # of the largest gradient; kernels round differently


def measure(run: Callable[[], object], device: torch.device, repeats: int) -> dict[str, Any]:
    """Median seconds, and peak bytes above those allocated before. With one repeat, a single run gives both."""
    if repeats > 1:
        run()
    times = []
    for _ in range(repeats if repeats > 1 else 0):
        _wait(device)
        started = time.perf_counter()
        run()
        _wait(device)
        times.append(time.perf_counter() - started)
    started = time.perf_counter()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        _wait(device)
        peak = torch.cuda.max_memory_allocated(device) - before
    else:
        with PeakMemory() as memory:
            run()
        peak = memory.peak
    times = times or [time.perf_counter() - started]
    return {"seconds": statistics.median(times), "all": times, "peak_bytes": peak}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def denoise_once(adapter: Adapter[Any], inputs: Inputs, trajectory: Trajectory) -> torch.Tensor:
    """One forward pass of generation: logits of all answer positions."""
    hidden = adapter.embed(inputs, trajectory.tokens[None])
    for index in range(adapter.num_layers):
        hidden = adapter.layer(index, hidden, inputs)
    return adapter.logits(hidden, torch.arange(len(trajectory.tokens), device=adapter.device)[None], inputs)


def agreement(adapter: Adapter[Any], inputs: Inputs, trajectory: Trajectory) -> float:
    """Maximum difference of the gradients of both methods, relative to the maximum gradient."""
    layer = adapter.default_layers[0]
    positions = torch.tensor([trajectory.length // 2], device=adapter.device)
    targets = build_targets(trajectory, positions, "remask", adapter.mask_token)
    ((_, expected),) = published.passes(adapter, inputs, targets, layer, "logit")
    (captured,) = capture(adapter, inputs, targets, (layer,), "logit")
    cells = inputs.views[0].cells.flatten()
    difference = (captured.gradients[:, cells].float() - expected[:, cells].float()).abs().max()
    return float(difference / expected[:, cells].float().abs().max())


def compare(
    name: str, ours: Adapter[Any], joint: Adapter[Any], inputs: Inputs, dtype: torch.dtype, repeats: int
) -> dict[str, Any]:
    """Timings and memory of one model.

    Args:
        name: of the model.
        ours: the adapter of this package.
        joint: the same model with joint attention, as the published method runs it.
        inputs: the encoded question.
        dtype: of the weights.
        repeats: runs of each method.

    Raises:
        SystemExit: The gradients of the two methods differ.
    """
    trajectory = ours.generate(inputs)
    difference = {adapter.attention: agreement(adapter, inputs, trajectory) for adapter in (ours, joint)}  # type: ignore[attr-defined]
    if not all(value <= AGREE[dtype] for value in difference.values()):
        raise SystemExit(
            f"attribution: gradients must agree to {AGREE[dtype]}, got {difference} on {name}: nothing measured"
        )
    positions = torch.linspace(0, trajectory.length - 1, WORDS, device=ours.device).round().long()
    final = build_targets(trajectory, positions, "final", ours.mask_token)
    rows: dict[str, dict[str, Any]] = {}

    runs: dict[str, Callable[[], object]] = {
        "inference, prefix": lambda: denoise_once(ours, inputs, trajectory),
        "inference, joint": lambda: denoise_once(joint, inputs, trajectory),
        "published": lambda: published.raw_maps(joint, inputs, final, 0, "contrast_sum"),
    }
    measured: tuple[tuple[Adapter[Any], State], ...]
    measured = ((ours, "remask"), (ours, "committed"), (ours, "final"), (joint, "remask"))
    for adapter, state in measured:
        method = GradientCAM(state=state)
        targets = build_targets(trajectory, positions, state, ours.mask_token)
        label = f"dcam_fast, {adapter.attention}, {state}"  # type: ignore[attr-defined]
        runs[label] = functools.partial(maps_of_targets, Answer(adapter, inputs, trajectory), targets, [method])
    for label, run in runs.items():
        rows[label] = measure(run, ours.device, repeats)
        typer.echo(f"{name}: {label}: {rows[label]['seconds']:.3f} s, {rows[label]['peak_bytes'] / 2**20:.1f} MiB")
    for label, row in rows.items():
        inference = rows["inference, prefix" if "prefix" in label else "inference, joint"]["peak_bytes"]
        row["above_inference_bytes"] = max(0, row["peak_bytes"] - inference)
    return {
        "model": name,
        "dtype": str(dtype).removeprefix("torch."),
        "words": WORDS,
        "agreement": difference,
        "rows": rows,
    }


def tiny(device: str, repeats: int) -> dict[str, Any]:
    """The embedded model."""
    adapter, joint = (models.load("tiny", device=device, attention=attention) for attention in ("prefix", "joint"))
    inputs = adapter.encode(scenes.sample_scene(np.random.default_rng(12), objects=3).image, scenes.CAPTION_PROMPT)
    about = {"num_layers": adapter.num_layers, "target_layer": adapter.default_layers[0], "tokens": 256 + 8 + 24}
    return compare("embedded model", adapter, joint, inputs, torch.float32, repeats) | about


def lavida(device: str, shape: Shape, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """LaViDa-8B's shapes, random weights."""
    adapter = ShapedAdapter(shape, "prefix", device, dtype)
    joint = ShapedAdapter(shape, "joint", device, dtype, adapter.model)
    inputs = adapter.encode(np.zeros((480, 640, 3), np.uint8), "?")
    name = f"LaViDa-8B's shapes, {shape.layers} of 32 layers" if shape.layers < 32 else "LaViDa-8B's shapes"
    about = {"shape": asdict(shape), "num_layers": shape.layers, "target_layer": adapter.default_layers[0]}
    about["tokens"] = shape.image + shape.prompt + shape.answer
    return compare(name, adapter, joint, inputs, dtype, repeats) | about


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda; default: cuda if available.")] = "",
    layers: Annotated[
        int, typer.Option(help="Layers of LaViDa's shapes, 0 for none; default: 32 on cuda, else 4.")
    ] = -1,
    dtype: Annotated[str, typer.Option(help="dtype of LaViDa's weights, bfloat16 or float32.")] = "bfloat16",
    repeats: Annotated[int, typer.Option(help="Runs of each method; LaViDa's shapes run once on a CPU.")] = 9,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measures and prints both models."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    layers = (32 if device == "cuda" else 4) if layers < 0 else layers
    head = header(device)
    results = [tiny(device, repeats)]
    if layers:
        shape = replace(Shape(), layers=layers)
        results.append(lavida(device, shape, getattr(torch, dtype), repeats if device == "cuda" else 1))
    if out:
        write_result(out, head, results=results)


if __name__ == "__main__":
    typer.run(main)
