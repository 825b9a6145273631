"""How many calls of `explain(..., budget_ms=...)` return in time, on an idle machine and next to busy processes.

Run: `./run python -m dcam_fast.benchmarks.budgets --out benchmarks/results/DATE-budgets.json` (twelve minutes, two
cores). Every call asks about another scene and counts, the first ones included, which have no costs to go by. The
budgets follow one another with one explainer, so later ones find what earlier ones measured.

JSON: the header of `results.header`, and `rows`, one per number of busy processes and budget: `busy`, `budget_ms`,
`calls`, `within` (returned in time), `late`, `refused` (`BudgetError`), `p95_ms` of the calls that returned (null if
none did), `chosen`: how often each level was.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from dcam_fast import BudgetError, Explainer, scenes
from dcam_fast.benchmarks.latency import busy_processes
from dcam_fast.benchmarks.results import header, write_result

SEED = 42_000
BUDGETS_MS = (1400.0, 700.0, 400.0)


@dataclass(frozen=True)
class Row:
    """One row of the file; see the module's docstring."""

    busy: int
    budget_ms: float
    calls: int
    within: int
    late: int
    refused: int
    p95_ms: float | None
    chosen: dict[str, int]


def measure(explainer: Explainer, busy: int, budget_ms: float, calls: int) -> Row:
    """Calls with one budget, timed from outside."""
    images = [scenes.sample_scene(np.random.default_rng(SEED + index), objects=3).image for index in range(calls)]
    taken: list[float] = []
    chosen: Counter[str] = Counter()
    for image in images:
        started = time.perf_counter()
        try:
            found: Any = explainer.explain(image, budget_ms=budget_ms).provenance["budget"]
        except BudgetError:
            continue
        taken.append((time.perf_counter() - started) * 1e3)
        chosen[found["chosen"]] += 1
    within = sum(ms <= budget_ms for ms in taken)
    p95 = statistics.quantiles(taken, n=20, method="inclusive")[-1] if len(taken) > 1 else None
    return Row(busy, budget_ms, calls, within, len(taken) - within, calls - len(taken), p95, dict(chosen))


def main(
    calls: Annotated[int, typer.Option(min=2, help="Calls for each budget and number of busy processes.")] = 200,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measures, prints, and writes the JSON file."""
    head = header("cpu")
    rows = []
    for busy in (0, os.cpu_count() or 1):
        explainer = Explainer.from_pretrained("tiny")
        with busy_processes(busy):
            for budget_ms in BUDGETS_MS:
                rows.append(measure(explainer, busy, budget_ms, calls))
                typer.echo(str(rows[-1]))
    if out:
        write_result(out, head, rows=[dataclasses.asdict(row) for row in rows])


if __name__ == "__main__":
    typer.run(main)
