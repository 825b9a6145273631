"""How the default method and profile were chosen: ``python -m dcam_fast.evaluation.search``.

Two rounds on the selection scenes, which no reported figure is measured on. The first compares raw maps over
objectives, answer states, aggregations and blocks; the second refines the best raw map in every way. The best is the
one with the highest pointing rate among those whose F3 is within one standard error of the highest.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tqdm import tqdm

from dcam_fast import models, ops
from dcam_fast.attribution.diffusion_cam import Method, build_targets
from dcam_fast.attribution.engine import capture
from dcam_fast.attribution.objectives import ObjectiveName
from dcam_fast.attribution.refined import refined
from dcam_fast.attribution.states import StateName
from dcam_fast.config import RAW, RefineConfig
from dcam_fast.evaluation.cases import Case, Metrics, measure
from dcam_fast.evaluation.datasets.scenes import SELECTION_SEED
from dcam_fast.evaluation.localisation import draw_cases, summarise
from dcam_fast.models.adapter import Adapter

OBJECTIVES: tuple[ObjectiveName, ...] = ("logprob", "logit", "contrast", "contrast_sum")
STATES: tuple[StateName, ...] = ("committed", "remask", "first", "final")
AGGREGATIONS = ("elementwise", "layercam", "hirescam", "gradcam", "pooled", "activation")
BLOCKS = ((0,), (1,), (2,), (3,), (4,), (1, 2), (2, 3), (0, 1, 2))


def profiles() -> Iterator[RefineConfig]:
    """Every refinement that the second round tries: smoothing, gating, attenuation (times the published weights, 0 for
    none) and debiasing (its two coefficients, 0 for none)."""
    smoothing: list[dict[str, Any]] = [{"denoise": "none"}, {"denoise": "rank"}]
    smoothing += [{"denoise": "gaussian", "smoothing_sigma": sigma} for sigma in (0.4, 0.5, 0.6)]
    debiasing = ((0.0, 0.0), (0.05, 0.02), (0.02, 0.05), (0.2, 0.02), (0.4, 0.02))
    weights = RAW.attenuation_weights
    for smooth, gating, times, (c_rep, c_high) in itertools.product(
        smoothing, (False, True), (0, 1, 2, 4, 6), debiasing
    ):
        yield RefineConfig(
            **smooth,
            gating=gating,
            gating_sigma=0.3,
            attenuation=times > 0,
            attenuation_weights=tuple(round(max(times, 1) * weight, 3) for weight in weights),
            debiasing=c_rep > 0,
            c_rep=c_rep,
            c_high=c_high,
            debiasing_in_ablations=False,
        )


def ranked(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By F3, after those within one standard error of the highest, which come first and by pointing rate."""
    top = max(entries, key=lambda entry: entry["f3"])
    level = top["f3"] - top["f3_error"]
    return sorted(entries, key=lambda entry: (-entry["hit"] if entry["f3"] >= level else 0.0, -entry["f3"]))


def compare_raw(adapter: Adapter[Any], cases: list[Case]) -> list[dict[str, Any]]:
    """The first round: one entry per method, best first."""
    rows: dict[tuple[Any, ...], list[Metrics]] = {}
    combinations = list(itertools.product(OBJECTIVES, STATES))
    every = tuple(range(adapter.blocks - 1))
    for case in tqdm(cases, "raw maps"):
        view = case.inputs.views[0]
        for objective, state in combinations:
            targets = build_targets(case.trajectory, case.positions, state, adapter.mask_token)
            captured = capture(adapter, case.inputs, targets, every, objective)
            for aggregation, blocks in itertools.product(AGGREGATIONS, BLOCKS):
                activations, gradients = zip(
                    *((captured[b].activations, captured[b].gradients) for b in blocks), strict=True
                )
                maps = ops.pool(activations, gradients, view.cells.flatten(), aggregation).view(-1, *view.cells.shape)
                rows.setdefault((objective, state, aggregation, blocks), []).append(measure(case, maps))
    entries = [
        {"objective": objective, "state": state, "aggregation": aggregation, "blocks": list(blocks)} | summarise(of)
        for (objective, state, aggregation, blocks), of in rows.items()
    ]
    return ranked(entries)


def compare_profiles(adapter: Adapter[Any], cases: list[Case], method: Method) -> list[dict[str, Any]]:
    """The second round: one entry per refinement of ``method``'s raw maps, best first."""
    rows: dict[RefineConfig, list[Metrics]] = {}
    for case in tqdm(cases, "profiles"):
        view = case.inputs.views[0]
        targets = build_targets(case.trajectory, case.positions, method.state, adapter.mask_token)
        captured = capture(adapter, case.inputs, targets, method.blocks or adapter.default_blocks, method.objective)
        activations, gradients = [c.activations for c in captured], [c.gradients for c in captured]
        raw = ops.pool(activations, gradients, view.cells.flatten(), method.aggregation).view(-1, *view.cells.shape)
        for config in profiles():
            rows.setdefault(config, []).append(measure(case, refined(raw, config, case.inputs, case.answer)))
    entries = [summarise(of) | {"profile": asdict(config)} for config, of in rows.items()]
    return ranked(entries)


def describe(profile: dict[str, Any]) -> str:
    """A profile of the second round in a few words."""
    smooth = f"gaussian {profile['smoothing_sigma']}" if profile["denoise"] == "gaussian" else profile["denoise"]
    debias = f"SICD {profile['c_rep']}/{profile['c_high']}" if profile["debiasing"] else ""
    times = profile["attenuation_weights"][0] / RAW.attenuation_weights[0]
    attenuate = f"CBA x{times:.0f}" if profile["attenuation"] else ""
    parts = (smooth, "DACG" * profile["gating"], attenuate, debias)
    return " + ".join(part for part in parts if part)


def main(
    count: Annotated[int, typer.Option(help="Selection scenes.")] = 40,
    attention: Annotated[str, typer.Option(help="Attention topology, prefix or joint.")] = "prefix",
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Runs both rounds and prints the best of each."""
    adapter = models.load("tiny", attention=attention)
    cases = list(draw_cases(adapter, count, SELECTION_SEED))
    raw = compare_raw(adapter, cases)
    for entry in raw[:12]:
        name = f"{entry['objective']} {entry['state']} {entry['aggregation']} {entry['blocks']}"
        typer.echo(f"{name:50} hit {entry['hit']:.3f} IoU {entry['iou']:.3f} F3 {entry['f3']:.3f}")
    best = {name: raw[0][name] for name in ("objective", "state", "aggregation")}
    method = replace(Method(**best), blocks=tuple(raw[0]["blocks"]))
    refined = compare_profiles(adapter, cases, method)
    for entry in refined[:12]:
        name = describe(entry["profile"])
        typer.echo(f"{name:50} hit {entry['hit']:.3f} IoU {entry['iou']:.3f} F3 {entry['f3']:.3f}")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        head = {"date": date.today().isoformat(), "scenes": count, "seed": SELECTION_SEED, "attention": attention}
        out.write_text(
            json.dumps(head | {"torch": torch.__version__, "raw": raw, "profiles": refined}, indent=1) + "\n"
        )


if __name__ == "__main__":
    typer.run(main)
