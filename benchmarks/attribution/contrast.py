"""Contrasts on scenes of two objects: does the map of `red > blue` point at the red object?

Run: `./run python -m dcam_fast.benchmarks.attribution.contrast --out DATE-contrast.json`.
The color of each object is contrasted with the color of the other object, and with one that the scene does not have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from dcam_fast import models
from dcam_fast.attribution import GradientCAM, scores
from dcam_fast.attribution.contrasts import ContrastedWord, encode_instead, log_preference
from dcam_fast.benchmarks.results import header, write_result
from dcam_fast.evaluation.aggregate import Aggregate, Estimate
from dcam_fast.evaluation.cases import EvaluationCase, case_maps, prepare
from dcam_fast.evaluation.datasets.sample import Sample
from dcam_fast.evaluation.datasets.synthetic import Scenes
from dcam_fast.evaluation.measurement import measure
from dcam_fast.models.adapter import Adapter
from dcam_fast.scenes import COLORS

SEED = 35_000  # nothing is chosen on these scenes
DRAWN = 20_000  # scenes at most, to find enough of each kind
MEASURED = ("pointing", "wrong", "obj_iou", "concentration")
WORD, OTHER, ABSENT = "color", "color > the other object's color", "color > a color that is not there"


def kind_of(sample: Sample) -> str | None:
    """Whether the two objects of a scene have the same shape; None if they are not two or have the same color."""
    names = [region.name.split() for region in sample.regions]
    if len(names) != 2 or names[0][1] == names[1][1]:
        return None
    return "same shape" if names[0][2] == names[1][2] else "different shapes"


def scenes_of_each_kind(count: int) -> Iterator[tuple[str, Sample]]:
    """The first `count` scenes of each kind."""
    left = {"same shape": count, "different shapes": count}
    for sample in Scenes(DRAWN, SEED, objects=2):
        kind = kind_of(sample)
        if kind and left[kind]:
            left[kind] -= 1
            yield kind, sample
        if not any(left.values()):
            return


def color_words(case: EvaluationCase) -> EvaluationCase:
    """The case with the two words that name a color alone, of which each names one object."""
    rows = [index for index, word in enumerate(case.words) if word.text in COLORS]
    return dataclasses.replace(
        case,
        words=tuple(case.words[row] for row in rows),
        region_index=case.region_index[rows],
        masks=case.masks[rows],
        others=case.others[rows],
    )


def contrasts(adapter: Adapter[Any], case: EvaluationCase) -> dict[str, tuple[ContrastedWord, ...]]:
    """Both words contrasted with each other, and with the next color of the palette that is not there."""
    first, second = case.words
    colors = list(COLORS)
    following = colors[colors.index(first.text) :] + colors
    absent = next(color for color in following if color not in (first.text, second.text))

    def contrasted(instead: dict[str, str]) -> tuple[ContrastedWord, ...]:
        return tuple(
            ContrastedWord(
                word.text,
                word.positions,
                instead=instead[word.text],
                instead_tokens=encode_instead(adapter, case.trajectory, word.positions, instead[word.text]),
            )
            for word in case.words
        )

    return {
        OTHER: contrasted({first.text: second.text, second.text: first.text}),
        ABSENT: contrasted({first.text: absent, second.text: absent}),
    }


def preferences(
    adapter: Adapter[Any], case: EvaluationCase, pairs: tuple[ContrastedWord, ...], hot: Tensor
) -> list[float]:
    """`p(word) / (p(word) + p(other color))` of each word without its cells `hot`, bool `[2, h, w]`."""
    layer = adapter.default_layers[0]
    return [
        float(log_preference(adapter, case.inputs, case.trajectory, word, layer, cells.flatten())[1].exp())
        for word, cells in zip(pairs, hot, strict=True)
    ]


def compare(adapter: Adapter[Any], case: EvaluationCase) -> dict[str, dict[str, list[float]]]:
    """The metrics of the maps of both words, plain and contrasted."""
    by_row = contrasts(adapter, case)
    table = {}
    for name, words in {WORD: case.words, **by_row}.items():
        maps = case_maps(adapter, case, {"": GradientCAM()}, words)[""]
        hot = scores.hot_cells(maps)
        measured = measure(case, maps)
        table[name] = {metric: measured[metric] for metric in MEASURED} | {
            "cells": hot.flatten(1).double().mean(1).tolist(),
            "preference": preferences(adapter, case, by_row[OTHER], hot),
        }
    return table


@torch.no_grad()
def unchanged_preference(adapter: Adapter[Any], case: EvaluationCase) -> list[float]:
    """`p(word) / (p(word) + p(other color))` of each word with all cells."""
    shape = case.inputs.views[0].cells.shape
    return preferences(adapter, case, contrasts(adapter, case)[OTHER], torch.zeros(2, *shape, dtype=torch.bool))


def main(
    count: Annotated[int, typer.Option(help="Scenes of each kind.")] = 200,
    attention: Annotated[str, typer.Option(help="Attention topology, prefix or joint.")] = "prefix",
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measures and prints both kinds of scenes."""
    head = header("cpu")
    adapter = models.load("tiny", attention=attention)
    found: dict[str, dict[str, Aggregate]] = {}
    right = {"same shape": 0, "different shapes": 0}
    for kind, sample in scenes_of_each_kind(count):
        case = prepare(adapter, sample)[1]
        if case is None:
            continue
        case = color_words(case)
        right[kind] += 1
        rows = found.setdefault(kind, {})
        for name, metrics in compare(adapter, case).items():
            rows.setdefault(name, Aggregate()).update(metrics)
        rows.setdefault("", Aggregate()).update({"preference": unchanged_preference(adapter, case)})
    tables: dict[str, dict[str, dict[str, Estimate]]] = {
        kind: {name: aggregate.compute() for name, aggregate in rows.items()} for kind, rows in found.items()
    }
    for kind, table in tables.items():
        typer.echo(f"{kind}: {right[kind]} right captions of {count}")
        for name, row in table.items():
            typer.echo(f"{name:34} " + "  ".join(f"{metric} {estimate.value:.3f}" for metric, estimate in row.items()))
    if out:
        unchanged = {kind: dataclasses.asdict(table.pop("")["preference"]) for kind, table in tables.items()}
        plain = {
            kind: {
                name: {metric: dataclasses.asdict(estimate) for metric, estimate in row.items()}
                for name, row in table.items()
            }
            for kind, table in tables.items()
        }
        write_result(
            out, head, scenes=count, right=right, seed=SEED, attention=attention, preference=unchanged, tables=plain
        )


if __name__ == "__main__":
    typer.run(main)
