"""Accuracy and speed of the approximate modes, on the selection scenes.

Run: `./run python -m dcam_fast.benchmarks.attribution.approximations --out DATE-approximations.json`.
Each mode is compared with the exact maps of the same words: localization, cosine similarity, seconds.
"""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from dcam_fast import models
from dcam_fast.attribution import METHODS, GradientCAM
from dcam_fast.benchmarks.results import header, write_result
from dcam_fast.config import DEFAULT
from dcam_fast.evaluation.datasets.synthetic import SELECTION_SEED
from dcam_fast.evaluation.localization import draw_cases, method_maps, score, summarize
from dcam_fast.models.adapter import Word

MODES: dict[str, dict[str, Any]] = {
    "words": {
        "exact": GradientCAM(),
        "2 layers above": GradientCAM(depth=2),
        "1 layer above": GradientCAM(depth=1),
        "no gradient (TAM)": METHODS["tam"],
        "no gradient (attention rollout)": replace(METHODS["attention_rollout"], profile=DEFAULT),  # type: ignore[type-var]
        "no gradient (activations)": replace(METHODS["activation"], profile=DEFAULT),  # type: ignore[type-var]
    },
    "phrases": {"exact": GradientCAM(), "one backward pass for a phrase": GradientCAM(shared=True)},
}


def join_phrases(case: Any) -> Any:
    """The case with the words of each object joined to one phrase."""
    groups = [
        list(group)
        for _, group in itertools.groupby(range(len(case.words)), lambda i: case.masks[i].flatten().nonzero()[0].item())
    ]
    words = tuple(Word("", tuple(p for i in group for p in case.words[i].positions)) for group in groups)
    first = [group[0] for group in groups]
    return replace(case, words=words, masks=case.masks[first], others=case.others[first])


def compare(cases: list[Any], adapter: Any, modes: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Per mode: localization, mean cosine with the exact maps, median seconds per scene."""
    table = {}
    exact: list[torch.Tensor] = []
    for name, method in modes.items():
        measured, alike, times = [], [], []
        for index, case in enumerate(cases):
            started = time.perf_counter()
            maps = method_maps(adapter, case, method)
            times.append(time.perf_counter() - started)
            if name == "exact":
                exact.append(maps)
            alike += torch.cosine_similarity(maps.flatten(1), exact[index].flatten(1)).tolist()
            measured.append(score(adapter, case, maps, with_deletion=False))
        found = summarize(measured)
        table[name] = {key: found[key] for key in ("pointing", "obj_iou", "f3")}
        table[name] |= {"cosine": statistics.fmean(alike), "seconds": statistics.median(times)}
    return table


def main(
    count: Annotated[int, typer.Option(help="Selection scenes.")] = 40,
    attention: Annotated[str, typer.Option(help="Attention topology, prefix or joint.")] = "prefix",
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measures and prints all modes."""
    head = header("cpu")
    adapter = models.load("tiny", attention=attention)
    cases = list(draw_cases(adapter, count, SELECTION_SEED))
    tables = {
        "words": compare(cases, adapter, MODES["words"]),
        "phrases": compare([join_phrases(case) for case in cases], adapter, MODES["phrases"]),
    }
    for kind, table in tables.items():
        for name, row in table.items():
            typer.echo(f"{kind:8} {name:28} " + "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    if out:
        write_result(out, head, scenes=count, seed=SELECTION_SEED, attention=attention, tables=tables)


if __name__ == "__main__":
    typer.run(main)
