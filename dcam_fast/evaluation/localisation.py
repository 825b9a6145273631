"""Do the maps sit on what their words name? ``python -m dcam_fast.evaluation.localisation`` prints and saves the table.

The embedded model captions held-out scenes; every word of a right caption that names an object (its size, color or
shape) has that object's mask as ground truth. Two kinds of evidence: overlap with the mask, and deletion (how much of
the word's probability is left when the strongest cells of its map are painted over).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor
from tqdm import tqdm

from dcam_fast import models
from dcam_fast.attribution.diffusion_cam import DIFFUSION_CAM, PUBLISHED, Method
from dcam_fast.attribution.methods import METHODS
from dcam_fast.config import RAW
from dcam_fast.evaluation.cases import Case, Metrics, case_maps, curve_metrics, mask_maps, measure, prepare
from dcam_fast.evaluation.datasets.scenes import SELECTION_SEED, TEST_SEED, Scenes
from dcam_fast.evaluation.perturbation import Perturbation
from dcam_fast.models.adapter import Adapter
from dcam_fast.models.tiny import scenes

__all__ = ["SELECTION_SEED", "TEST_SEED", "draw_cases", "evaluate", "format_table", "method_maps", "score", "summarise"]

DELETED = {"deletion_4": "deletion_1.56%", "deletion_32": "deletion_12.5%"}  # cells of 256 that are painted over


def draw_cases(adapter: Adapter[Any], count: int, seed: int, steps: int | None = None) -> Iterator[Case]:
    """A case for each of ``count`` scenes that the model captions without an error; the others have no ground truth."""
    for sample in Scenes(count, seed):
        _, case = prepare(adapter, sample, steps)
        if case is not None:
            yield case


def score(adapter: Adapter[Any], case: Case, maps: Tensor, with_deletion: bool = True) -> Metrics:
    """What is measured of each map ``[T, h, w]`` of a case."""
    if not with_deletion:
        return measure(case, maps)
    perturbation = Perturbation(adapter, case.inputs, case.trajectory, case.words)
    return measure(case, maps) | curve_metrics(perturbation.curves(maps))


def method_maps(adapter: Adapter[Any], case: Case, method: Method) -> Tensor:
    """Refined maps ``[T, h, w]`` of a case's words, as `Explainer.explain` makes them."""
    return case_maps(adapter, case, {"": method})[""]


def summarise(measured: Sequence[Metrics]) -> dict[str, float]:
    """Means over words, with the standard error of F3; the median for contrast, which a dark background would rule."""
    values = {name: [value for one in measured for value in one[name]] for name in measured[0]}
    table = {name: statistics.fmean(values[name]) for name in _MEANS}
    table["f3_error"] = statistics.pstdev(values["f3"]) / len(values["f3"]) ** 0.5
    table["contrast"] = statistics.median(values["contrast"])
    return table | {name: statistics.fmean(values[of]) for name, of in DELETED.items() if of in values}


_MEANS = ("hit", "wrong", "iou", "concentration", "f3")


def evaluate(adapter: Adapter[Any], count: int, seed: int, show: bool = True) -> dict[str, Any]:
    """The table: the default, the published method, that without its cleaning, and random maps and true masks as the
    two ends of the scale; over all words and by kind."""
    methods = {
        "default": DIFFUSION_CAM,
        "published": PUBLISHED,
        "published, raw": replace(PUBLISHED, profile=RAW),
        "random": METHODS["random"],
    }
    measured: dict[str, list[Metrics]] = {name: [] for name in (*methods, "true mask")}
    by_kind: dict[str, dict[str, list[Metrics]]] = {name: {kind: [] for kind in _KINDS} for name in measured}
    captions = 0
    for case in tqdm(draw_cases(adapter, count, seed), "scenes", count, disable=not show):
        captions += 1
        perturbation = Perturbation(adapter, case.inputs, case.trajectory, case.words)
        kinds = [_kind(word.text) for word in case.words]
        for name, maps in (case_maps(adapter, case, methods) | {"true mask": mask_maps(case)}).items():
            one = measure(case, maps) | curve_metrics(perturbation.curves(maps))
            del one["specificity"]  # not a value a word
            measured[name].append(one)
            for kind in set(kinds):
                of_kind = {m: [v for v, k in zip(values, kinds, strict=True) if k == kind] for m, values in one.items()}
                by_kind[name][kind].append(of_kind)
    return {
        "scenes": count,
        "seed": seed,
        "right_captions": captions,
        "words": sum(len(one["hit"]) for one in measured["random"]),
        "table": {name: summarise(of) for name, of in measured.items()},
        "by_kind": {name: {kind: summarise(of) for kind, of in kinds.items()} for name, kinds in by_kind.items()},
    }


_KINDS = ("size", "color", "shape")


def _kind(word: str) -> str:
    return "size" if word in scenes.SIZES else "color" if word in scenes.COLORS else "shape"


def format_table(result: dict[str, Any]) -> str:
    """The table as Markdown."""
    columns = ("hit", "wrong", "iou", "concentration", "contrast", "f3", *DELETED)
    lines = ["| map | " + " | ".join(c.replace("_", " ") for c in columns) + " |", "| --- |" + " --- |" * len(columns)]
    for name, cells in result["table"].items():
        lines.append(f"| {name} | " + " | ".join(f"{cells[c]:.2f}" for c in columns) + " |")
    return "\n".join(lines)


def main(
    count: Annotated[int, typer.Option(help="Scenes.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the scenes.")] = TEST_SEED,
    attention: Annotated[str, typer.Option(help="Attention topology, prefix or joint.")] = "prefix",
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Prints the localisation table on held-out scenes."""
    result = evaluate(models.load("tiny", attention=attention), count, seed) | {"attention": attention}
    typer.echo(f"{result['words']} words of {result['right_captions']} right captions of {count} scenes\n")
    typer.echo(format_table(result))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"date": date.today().isoformat()} | result, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
