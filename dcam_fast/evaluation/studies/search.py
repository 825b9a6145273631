"""The search for the default method and profile: `python -m dcam_fast.evaluation.studies.search`.

It has four rounds on the selection scenes, which no reported value is measured on.

1. Raw maps over objectives, answer states, aggregations and layers. The candidates have an F3 within one standard error
   of the highest. The best of them has the highest pointing rate, and among equals the fewest layers.
2. Every refinement of the best raw map, ranked in the same way.
3. Deletion for the candidates of the second round. The refinement with the lowest probability is chosen.
4. Ideas that the package does not implement, compared with this choice.
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
from rich.progress import track
from torch import Tensor

from dcam_fast import models, ops
from dcam_fast.attribution.answer_states import StateName
from dcam_fast.attribution.by_word import mean_by_word
from dcam_fast.attribution.engine import Capture, capture
from dcam_fast.attribution.methods.gradient_cam import GradientCAM, build_targets
from dcam_fast.attribution.objectives import ObjectiveName
from dcam_fast.attribution.refinement import refined
from dcam_fast.config import RAW, RefineConfig
from dcam_fast.evaluation.cases import EvaluationCase
from dcam_fast.evaluation.datasets.synthetic import SELECTION_SEED
from dcam_fast.evaluation.localization import draw_cases, summarize
from dcam_fast.evaluation.measurement import Metrics, curve_metrics, measure
from dcam_fast.evaluation.perturbation import Perturbation
from dcam_fast.images import cell_colors
from dcam_fast.models.adapter import Adapter

OBJECTIVES: tuple[ObjectiveName, ...] = ("logprob", "logit", "contrast", "contrast_sum")
STATES: tuple[StateName, ...] = ("committed", "remask", "first", "final")
AGGREGATIONS = ("elementwise", "layer_cam", "hires_cam", "grad_cam", "pooled", "activation")
FINALISTS = 12
LAYERS = ((0,), (1,), (2,), (3,), (4,), (1, 2), (2, 3), (0, 1, 2))


def denoisings() -> Iterator[dict[str, Any]]:
    """Settings of the denoising, the first module, in the second round."""
    yield from ({"denoise": "none"}, {"denoise": "rank"})
    yield from ({"denoise": "gaussian", "smoothing_sigma": sigma} for sigma in (0.4, 0.6, 0.8))
    for radius, epsilon in itertools.product((1, 2, 3, 4), (1e-4, 1e-3, 1e-2)):
        yield {"denoise": "guided", "guide_radius": radius, "guide_epsilon": epsilon}


def profiles() -> Iterator[RefineConfig]:
    """The refinements of the second round.

    They vary the denoising, the gating, the attenuation (a factor on the published weights, 0 for none) and the
    debiasing (two coefficients, 0 for none).
    """
    debiasing = ((0.0, 0.0), (0.05, 0.02), (0.02, 0.05), (0.2, 0.02), (0.4, 0.02))
    for denoising, gating, factor, (c_rep, c_high) in itertools.product(
        denoisings(), (False, True), (0, 1, 3, 6, 10, 15), debiasing
    ):
        yield RefineConfig(
            **denoising,
            gating=gating,
            gating_sigma=0.3,
            attenuation=factor > 0,
            attenuation_weights=tuple(round(max(factor, 1) * weight, 3) for weight in RAW.attenuation_weights),
            debiasing=c_rep > 0,
            c_rep=c_rep,
            c_high=c_high,
            debiasing_in_ablations=False,
        )


def min_f3(entries: list[dict[str, Any]]) -> float:
    """The highest F3 minus one standard error: what a candidate must have."""
    top = max(entries, key=lambda entry: entry["f3"])
    return float(top["f3"] - top["f3_error"])


def ranked(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """First the candidates by pointing rate, and by number of layers where it is equal; then all others by F3."""
    threshold = min_f3(entries)

    def rank(entry: dict[str, Any]) -> tuple[float, ...]:
        if entry["f3"] < threshold:
            return 1, -entry["f3"]
        return 0, -entry["pointing"], len(entry.get("layers", ())), -entry["f3"]

    return sorted(entries, key=rank)


def compare_raw(adapter: Adapter[Any], cases: list[EvaluationCase]) -> list[dict[str, Any]]:
    """The first round: one entry for each method, best first."""
    rows: dict[tuple[Any, ...], list[Metrics]] = {}
    combinations = list(itertools.product(OBJECTIVES, STATES))
    all_layers = tuple(range(adapter.num_layers - 1))
    for case in track(cases, "raw maps"):
        view = case.inputs.views[0]
        for objective, state in combinations:
            targets = build_targets(case.trajectory, case.positions, state, adapter.mask_token)
            captured = capture(adapter, case.inputs, targets, all_layers, objective)
            for aggregation, layers in itertools.product(AGGREGATIONS, LAYERS):
                activations, gradients = zip(
                    *((captured[layer].activations, captured[layer].gradients) for layer in layers), strict=True
                )
                maps = ops.pool(activations, gradients, view.cells.flatten(), aggregation).view(-1, *view.cells.shape)
                rows.setdefault((objective, state, aggregation, layers), []).append(measure(case, maps))
    entries = [
        {"objective": objective, "state": state, "aggregation": aggregation, "layers": list(layers)}
        | summarize(measured)
        for (objective, state, aggregation, layers), measured in rows.items()
    ]
    return ranked(entries)


def _captured(
    adapter: Adapter[Any], case: EvaluationCase, method: GradientCAM, state: StateName
) -> tuple[Capture, ...]:
    targets = build_targets(case.trajectory, case.positions, state, adapter.mask_token)
    return capture(adapter, case.inputs, targets, method.target_layers or adapter.default_layers, method.objective)


def _pooled(captured: tuple[Capture, ...], case: EvaluationCase, method: GradientCAM, centered: bool = False) -> Tensor:
    view = case.inputs.views[0]
    cells = view.cells.flatten()
    activations = [layer.activations for layer in captured]
    if centered:
        activations = [A - A[..., cells, :].mean(-2, keepdim=True) for A in activations]
    maps = ops.pool(activations, [layer.gradients for layer in captured], cells, method.aggregation)
    return mean_by_word(maps.view(-1, *view.cells.shape), case.words)


def compare_profiles(adapter: Adapter[Any], cases: list[EvaluationCase], method: GradientCAM) -> list[dict[str, Any]]:
    """The second round: one entry for each refinement of the raw maps of `method`, best first."""
    rows: dict[RefineConfig, list[Metrics]] = {}
    for case in track(cases, "profiles"):
        raw = _pooled(_captured(adapter, case, method, _state_of(method)), case, method)
        for config in profiles():
            rows.setdefault(config, []).append(measure(case, refined(raw, config, case.inputs, case.answer)))
    entries = [_summary(measured) | {"profile": asdict(config)} for config, measured in rows.items()]
    return ranked(entries)


def measure_deletion(
    adapter: Adapter[Any], cases: list[EvaluationCase], method: GradientCAM, entries: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The third round: the deletion of the candidates among `entries`, at most `FINALISTS`, lowest first."""
    threshold = min_f3(entries)
    finalists = [entry for entry in entries if entry["f3"] >= threshold][:FINALISTS]
    configs = [RefineConfig(**entry["profile"]) for entry in finalists]
    rows: list[list[Metrics]] = [[] for _ in finalists]
    for case in track(cases, "deletion"):
        raw = _pooled(_captured(adapter, case, method, _state_of(method)), case, method)
        perturbation = Perturbation(adapter, case.inputs, case.trajectory, case.words)
        for config, row in zip(configs, rows, strict=True):
            row.append(_scored(case, perturbation, refined(raw, config, case.inputs, case.answer)))
    measured = [entry | _summary(row) for entry, row in zip(finalists, rows, strict=True)]
    return sorted(measured, key=lambda entry: entry["deletion_4"])


def compare_ideas(
    adapter: Adapter[Any], cases: list[EvaluationCase], method: GradientCAM, config: RefineConfig
) -> list[dict[str, Any]]:
    """The fourth round: the choice, and ideas that the package does not implement."""
    rows: dict[str, list[Metrics]] = {}
    for case in track(cases, "ideas"):
        captured = {state: _captured(adapter, case, method, state) for state in ("committed", "remask")}
        committed, remask = (_pooled(captured[state], case, method) for state in ("committed", "remask"))
        chosen = _pooled(captured[_state_of(method)], case, method)
        same = (case.region_index[:, None] == case.region_index).to(chosen.dtype)
        phrases = torch.einsum("uv,vhw->uhw", same / same.sum(1, keepdim=True), chosen)
        ideas = {
            "as chosen": chosen,
            "the mean of the states committed and remask": (committed + remask) / 2,
            "activations centered over the cells": _pooled(captured[_state_of(method)], case, method, centered=True),
            "one map for all words of an object": phrases,
        }
        maps = {name: refined(raw, config, case.inputs, case.answer) for name, raw in ideas.items()}
        if config.needs_guide:
            maps["a guide twice as fine"] = _finely_guided(chosen, config, case)
        perturbation = Perturbation(adapter, case.inputs, case.trajectory, case.words)
        for name, idea_maps in maps.items():
            rows.setdefault(name, []).append(_scored(case, perturbation, idea_maps))
    return [{"idea": name} | _summary(measured) for name, measured in rows.items()]


def _finely_guided(raw: Tensor, config: RefineConfig, case: EvaluationCase) -> Tensor:
    """Refined with a guide of twice the resolution: each cell has four."""
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
    upsampled = F.interpolate(raw[:, None], scale_factor=2, mode="bilinear", align_corners=False)[:, 0]
    smooth = ops.guided_filter(upsampled, guide, 2 * config.guide_radius, config.guide_epsilon)
    return refined(F.avg_pool2d(smooth, 2), replace(config, denoise="none"), case.inputs, case.answer)


def _state_of(method: GradientCAM) -> StateName:
    if not isinstance(method.state, str):
        raise ValueError(f"search: state must be a name, got {method.state!r}")
    return method.state


def _scored(case: EvaluationCase, perturbation: Perturbation, maps: Tensor) -> Metrics:
    return measure(case, maps) | curve_metrics(perturbation.curves(maps))


def _summary(rows: list[Metrics]) -> dict[str, Any]:
    """`summarize`, with the inter-word correlation."""
    correlations = [value for row in rows for value in row["inter_word_correlation"]]
    return summarize(rows) | {"inter_word_correlation": statistics.fmean(correlations)}


def describe(profile: dict[str, Any]) -> str:
    """A short name for a profile of the second round."""
    smooth = {
        "gaussian": f"gaussian {profile['smoothing_sigma']}",
        "guided": f"guided {profile['guide_radius']}, {profile['guide_epsilon']:g}",
    }.get(profile["denoise"], profile["denoise"])
    debias = f"SICD {profile['c_rep']}/{profile['c_high']}" if profile["debiasing"] else ""
    factor = profile["attenuation_weights"][0] / RAW.attenuation_weights[0]
    attenuate = f"CBA x{factor:.0f}" if profile["attenuation"] else ""
    parts = (smooth, "DACG" * profile["gating"], attenuate, debias)
    return " + ".join(part for part in parts if part)


def main(
    count: Annotated[int, typer.Option(help="Number of selection scenes.")] = 40,
    attention: Annotated[str, typer.Option(help="Attention topology, prefix or joint.")] = "prefix",
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Run the four rounds and print the best of each."""
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
