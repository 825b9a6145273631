"""How the default method and profile were chosen: ``python -m dcam_fast.evaluation.studies.search``.

Four rounds on the selection scenes, which no reported figure is measured on. The first compares raw maps over
objectives, answer states, aggregations and layers: the best is the one with the highest pointing rate among those whose
F3 is within one standard error of the highest, of equals the one with fewer layers. The second refines the best raw map
in every way. The third takes those within one standard error of the highest F3 and measures deletion: the lowest is
chosen. The fourth asks whether a few ideas that the package does not have would improve on that.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import Tensor
from tqdm import tqdm

from dcam_fast import models, ops
from dcam_fast.attribution.answer_states import StateName
from dcam_fast.attribution.by_word import mean_by_word
from dcam_fast.attribution.engine import Capture, capture
from dcam_fast.attribution.methods.gradient_cam import GradientCAM, build_targets
from dcam_fast.attribution.objectives import ObjectiveName
from dcam_fast.attribution.refinement import refined
from dcam_fast.config import RAW, RefineConfig
from dcam_fast.evaluation.cases import Case, Metrics, curve_metrics, measure
from dcam_fast.evaluation.datasets.synthetic import SELECTION_SEED
from dcam_fast.evaluation.localization import draw_cases, summarize
from dcam_fast.evaluation.perturbation import Perturbation
from dcam_fast.images import cell_colors
from dcam_fast.models.adapter import Adapter

OBJECTIVES: tuple[ObjectiveName, ...] = ("logprob", "logit", "contrast", "contrast_sum")
STATES: tuple[StateName, ...] = ("committed", "remask", "first", "final")
AGGREGATIONS = ("elementwise", "layer_cam", "hires_cam", "grad_cam", "pooled", "activation")
FINALISTS = 12
BLOCKS = ((0,), (1,), (2,), (3,), (4,), (1, 2), (2, 3), (0, 1, 2))


def denoisings() -> Iterator[dict[str, Any]]:
    """Every first stage that the second round tries."""
    yield from ({"denoise": "none"}, {"denoise": "rank"})
    yield from ({"denoise": "gaussian", "smoothing_sigma": sigma} for sigma in (0.4, 0.6, 0.8))
    for radius, epsilon in itertools.product((1, 2, 3, 4), (1e-4, 1e-3, 1e-2)):
        yield {"denoise": "guided", "guide_radius": radius, "guide_epsilon": epsilon}


def profiles() -> Iterator[RefineConfig]:
    """Every refinement that the second round tries: denoising, gating, attenuation (times the published weights, 0 for
    none) and debiasing (its two coefficients, 0 for none)."""
    debiasing = ((0.0, 0.0), (0.05, 0.02), (0.02, 0.05), (0.2, 0.02), (0.4, 0.02))
    for first, gating, times, (c_rep, c_high) in itertools.product(
        denoisings(), (False, True), (0, 1, 3, 6, 10, 15), debiasing
    ):
        yield RefineConfig(
            **first,
            gating=gating,
            gating_sigma=0.3,
            attenuation=times > 0,
            attenuation_weights=tuple(round(max(times, 1) * weight, 3) for weight in RAW.attenuation_weights),
            debiasing=c_rep > 0,
            c_rep=c_rep,
            c_high=c_high,
            debiasing_in_ablations=False,
        )


def level(entries: list[dict[str, Any]]) -> float:
    """One standard error under the highest F3."""
    top = max(entries, key=lambda entry: entry["f3"])
    return float(top["f3"] - top["f3_error"])


def ranked(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By F3, after those within one standard error of the highest, which come first and by pointing rate; of the same
    rate those with fewer layers."""
    least = level(entries)

    def place(entry: dict[str, Any]) -> tuple[float, ...]:
        if entry["f3"] < least:
            return 1, -entry["f3"]
        return 0, -entry["pointing"], len(entry.get("layers", ())), -entry["f3"]

    return sorted(entries, key=place)


def compare_raw(adapter: Adapter[Any], cases: list[Case]) -> list[dict[str, Any]]:
    """The first round: one entry per method, best first."""
    rows: dict[tuple[Any, ...], list[Metrics]] = {}
    combinations = list(itertools.product(OBJECTIVES, STATES))
    every = tuple(range(adapter.num_layers - 1))
    for case in tqdm(cases, "raw maps"):
        view = case.inputs.views[0]
        for objective, state in combinations:
            targets = build_targets(case.trajectory, case.positions, state, adapter.mask_token)
            captured = capture(adapter, case.inputs, targets, every, objective)
            for aggregation, layers in itertools.product(AGGREGATIONS, BLOCKS):
                activations, gradients = zip(
                    *((captured[b].activations, captured[b].gradients) for b in layers), strict=True
                )
                maps = ops.pool(activations, gradients, view.cells.flatten(), aggregation).view(-1, *view.cells.shape)
                rows.setdefault((objective, state, aggregation, layers), []).append(measure(case, maps))
    entries = [
        {"objective": objective, "state": state, "aggregation": aggregation, "layers": list(layers)} | summarize(of)
        for (objective, state, aggregation, layers), of in rows.items()
    ]
    return ranked(entries)


def _captured(adapter: Adapter[Any], case: Case, method: GradientCAM, state: StateName) -> tuple[Capture, ...]:
    targets = build_targets(case.trajectory, case.positions, state, adapter.mask_token)
    return capture(adapter, case.inputs, targets, method.target_layers or adapter.default_layers, method.objective)


def _pooled(captured: tuple[Capture, ...], case: Case, method: GradientCAM, centerd: bool = False) -> Tensor:
    view = case.inputs.views[0]
    cells = view.cells.flatten()
    activations = [one.activations for one in captured]
    if centerd:
        activations = [A - A[..., cells, :].mean(-2, keepdim=True) for A in activations]
    maps = ops.pool(activations, [one.gradients for one in captured], cells, method.aggregation)
    return mean_by_word(maps.view(-1, *view.cells.shape), case.words)


def compare_profiles(adapter: Adapter[Any], cases: list[Case], method: GradientCAM) -> list[dict[str, Any]]:
    """The second round: one entry per refinement of ``method``'s raw maps, best first."""
    rows: dict[RefineConfig, list[Metrics]] = {}
    for case in tqdm(cases, "profiles"):
        raw = _pooled(_captured(adapter, case, method, _state_of(method)), case, method)
        for config in profiles():
            rows.setdefault(config, []).append(measure(case, refined(raw, config, case.inputs, case.answer)))
    entries = [_summary(of) | {"profile": asdict(config)} for config, of in rows.items()]
    return ranked(entries)


def measure_deletion(
    adapter: Adapter[Any], cases: list[Case], method: GradientCAM, entries: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The third round: those of ``entries`` within one standard error of the highest F3, `FINALISTS` at most, with
    their deletion, lowest first."""
    least = level(entries)
    finalists = [entry for entry in entries if entry["f3"] >= least][:FINALISTS]
    configs = [RefineConfig(**entry["profile"]) for entry in finalists]
    rows: list[list[Metrics]] = [[] for _ in finalists]
    for case in tqdm(cases, "deletion"):
        raw = _pooled(_captured(adapter, case, method, _state_of(method)), case, method)
        perturbation = Perturbation(adapter, case.inputs, case.trajectory, case.words)
        for config, row in zip(configs, rows, strict=True):
            row.append(_scored(case, perturbation, refined(raw, config, case.inputs, case.answer)))
    measured = [entry | _summary(row) for entry, row in zip(finalists, rows, strict=True)]
    return sorted(measured, key=lambda entry: entry["deletion_4"])


def compare_ideas(
    adapter: Adapter[Any], cases: list[Case], method: GradientCAM, config: RefineConfig
) -> list[dict[str, Any]]:
    """The fourth round: the choice, and what else could be done."""
    rows: dict[str, list[Metrics]] = {}
    for case in tqdm(cases, "ideas"):
        captured = {state: _captured(adapter, case, method, state) for state in ("committed", "remask")}
        committed, remask = (_pooled(captured[state], case, method) for state in ("committed", "remask"))
        chosen = _pooled(captured[_state_of(method)], case, method)
        same = (case.owners[:, None] == case.owners).to(chosen.dtype)
        phrases = torch.einsum("uv,vhw->uhw", same / same.sum(1, keepdim=True), chosen)
        tried = {
            "as chosen": chosen,
            "the mean of the states committed and remask": (committed + remask) / 2,
            "activations centerd over the cells": _pooled(captured[_state_of(method)], case, method, centerd=True),
            "one map for all words of an object": phrases,
        }
        maps = {name: refined(raw, config, case.inputs, case.answer) for name, raw in tried.items()}
        if config.needs_guide:
            maps["a guide twice as fine"] = _finely_guided(chosen, config, case)
        perturbation = Perturbation(adapter, case.inputs, case.trajectory, case.words)
        for name, of in maps.items():
            rows.setdefault(name, []).append(_scored(case, perturbation, of))
    return [{"idea": name} | _summary(of) for name, of in rows.items()]


def _finely_guided(raw: Tensor, config: RefineConfig, case: Case) -> Tensor:
    """Refined along the edges between quarters of cells."""
    boxes = case.inputs.views[0].boxes
    x0, y0, x1, y1 = boxes.unbind(-1)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    quarters = [
        [torch.stack((x0, y0, x, y), -1), torch.stack((x, y0, x1, y), -1)],
        [torch.stack((x0, y, x, y1), -1), torch.stack((x, y, x1, y1), -1)],
    ]
    rows = [torch.stack(row, 2).flatten(1, 2) for row in quarters]
    fine = torch.stack(rows, 1).flatten(0, 1)
    guide = cell_colors(case.inputs.image, fine).to(raw.device)
    blown = F.interpolate(raw[:, None], scale_factor=2, mode="bilinear", align_corners=False)[:, 0]
    smooth = ops.guided_filter(blown, guide, 2 * config.guide_radius, config.guide_epsilon)
    return refined(F.avg_pool2d(smooth, 2), replace(config, denoise="none"), case.inputs, case.answer)


def _state_of(method: GradientCAM) -> StateName:
    if not isinstance(method.state, str):
        raise ValueError(f"search: state must be a name, got {method.state!r}")
    return method.state


def _scored(case: Case, perturbation: Perturbation, maps: Tensor) -> Metrics:
    return measure(case, maps) | curve_metrics(perturbation.curves(maps))


def _summary(rows: list[Metrics]) -> dict[str, Any]:
    """`summarize`, with the correlation between words that name different things."""
    alike = [value for row in rows for value in row["inter_word_correlation"]]
    return summarize(rows) | {"inter_word_correlation": statistics.fmean(alike)}


def describe(profile: dict[str, Any]) -> str:
    """A profile of the second round in a few words."""
    smooth = {
        "gaussian": f"gaussian {profile['smoothing_sigma']}",
        "guided": f"guided {profile['guide_radius']}, {profile['guide_epsilon']:g}",
    }.get(profile["denoise"], profile["denoise"])
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
    """Runs the four rounds and prints the best of each."""
    adapter = models.load("tiny", attention=attention)
    cases = list(draw_cases(adapter, count, SELECTION_SEED))
    raw = compare_raw(adapter, cases)
    for entry in raw[:12]:
        name = f"{entry['objective']} {entry['state']} {entry['aggregation']} {entry['layers']}"
        typer.echo(f"{name:50} pointing {entry['pointing']:.3f} obj_iou {entry['obj_iou']:.3f} F3 {entry['f3']:.3f}")
    best = {name: raw[0][name] for name in ("objective", "state", "aggregation")}
    method = replace(GradientCAM(**best), target_layers=tuple(raw[0]["layers"]))
    best_refined = compare_profiles(adapter, cases, method)
    for entry in best_refined[:12]:
        name = describe(entry["profile"])
        typer.echo(f"{name:50} pointing {entry['pointing']:.3f} obj_iou {entry['obj_iou']:.3f} F3 {entry['f3']:.3f}")
    finalists = measure_deletion(adapter, cases, method, best_refined)
    for entry in finalists:
        typer.echo(f"{describe(entry['profile']):50} deletion {entry['deletion_4']:.3f} F3 {entry['f3']:.3f}")
    ideas = compare_ideas(adapter, cases, method, RefineConfig(**finalists[0]["profile"]))
    for entry in ideas:
        typer.echo(f"{entry['idea']:50} deletion {entry['deletion_4']:.3f} F3 {entry['f3']:.3f}")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        head = {"date": date.today().isoformat(), "scenes": count, "seed": SELECTION_SEED, "attention": attention}
        rounds = {"raw": raw, "profiles": best_refined, "finalists": finalists, "ideas": ideas}
        out.write_text(json.dumps(head | {"torch": torch.__version__} | rounds, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
