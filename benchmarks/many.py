"""Throughput and memory of `explain_many`, compared with a loop of `explain` over the same requests.

Run: `./run python -m dcam_fast.benchmarks.many --out benchmarks/results/DATE-many.json` (five minutes, two cores). Both
sides must give equal maps, then they take turns.

JSON: the header of `results.header`; `requests` of a round; `rows`, one per side: `call`, `seconds` of each round;
`memory`, one per round: resident bytes of the process after a quarter, half and all of the requests of `explain_many`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from dcam_fast import Explainer, ExplainRequest, Explanation, scenes
from dcam_fast.benchmarks.results import header, write_result

SEED = 41_000


def requests_of(count: int) -> Iterator[ExplainRequest]:
    """The captions of `count` scenes, each drawn when it is read."""
    for index in range(count):
        yield ExplainRequest(scenes.sample_scene(np.random.default_rng(SEED + index), objects=3).image)


def resident_bytes() -> int:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def check_equal(explainer: Explainer, count: int) -> None:
    """Checks that both sides explain `count` requests alike.

    Raises:
        SystemExit: A map or an answer differs.
    """
    for request, result in zip(requests_of(count), explainer.explain_many(requests_of(count)), strict=True):
        plain = explainer.explain(request.image)
        if (
            not isinstance(result, Explanation)
            or result.tokens != plain.tokens
            or not torch.equal(result.maps, plain.maps)
        ):
            raise SystemExit(f"many: explanation must be that of explain, {plain}, got {result}: nothing measured")


def loop_seconds(explainer: Explainer, count: int) -> float:
    """Seconds of a loop of `explain`."""
    started = time.perf_counter()
    for request in requests_of(count):
        explainer.explain(request.image)
    return time.perf_counter() - started


def many_seconds(explainer: Explainer, count: int) -> tuple[float, list[int]]:
    """Seconds of `explain_many`, and resident bytes after a quarter, half and all of the requests."""
    memory = []
    started = time.perf_counter()
    for number, _ in enumerate(explainer.explain_many(requests_of(count)), 1):
        if number in (count // 4, count // 2, count):
            memory.append(resident_bytes())
    return time.perf_counter() - started, memory


def main(
    count: Annotated[int, typer.Option(min=4, help="Requests of a round.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each side.")] = 5,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measures, prints, and writes the JSON file."""
    head = header("cpu")
    explainer = Explainer.from_pretrained("tiny")
    check_equal(explainer, min(count, 16))
    seconds: dict[str, list[float]] = {"loop of explain": [], "explain_many": []}
    memory: list[Any] = []
    for _ in range(rounds):
        seconds["loop of explain"].append(loop_seconds(explainer, count))
        taken, resident = many_seconds(explainer, count)
        seconds["explain_many"].append(taken)
        memory.append(resident)
        typer.echo("  ".join(f"{call}: {values[-1]:.2f} s" for call, values in seconds.items()) + f"  {resident}")
    if out:
        rows = [{"call": call, "seconds": values} for call, values in seconds.items()]
        write_result(out, head, requests=count, rows=rows, memory=memory)


if __name__ == "__main__":
    typer.run(main)
