"""Latency alone and beside busy processes, of the ops and of the explanation of the embedded model's caption:
``./run python -m dcam_fast.benchmarks.latency --out benchmarks/results/DATE-latency.json``.

Every call is checked against the reference before it is timed, and is timed one at a time. The busy processes compute
all the time, one core each; they are started and stopped here. About six minutes on two cores.

JSON: `date`, `machine` (`describe_machine`), and `rows`, one per call and number of busy processes: `call`, `busy`,
`median`, `p95`, `p99` in seconds, `samples`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from dcam_fast import Explainer, scenes
from dcam_fast.benchmarks.cases import Case
from dcam_fast.benchmarks.implementations import implementations
from dcam_fast.benchmarks.results import describe_machine, now
from dcam_fast.benchmarks.suite import gate

BUSY = (0, 1, 2, 3, 4)
OURS = "dcam_fast cpu"
CASES = {
    "refine, 1 map 27x27": Case("op", "refine", "released", 1, (27, 27)),
    "refine, 64 maps 27x27": Case("op", "refine", "released", 64, (27, 27)),
    "diffusion_cam, 27x27, D = 4096, bfloat16": Case(
        "post-processing", "diffusion_cam", "pooled, released", 1, (27, 27), 4096, "bfloat16"
    ),
    "overlay, 640x480 pixels": Case("op", "overlay", "turbo", 1, (27, 27), image=(480, 640)),
}
# Ends when it is stopped, and when the process that started it has been killed.
LOOP = """
import os, sys
import numpy as np
parent, numbers = os.getppid(), np.random.rand(1000)
print("busy", flush=True)
while os.getppid() == parent:
    for _ in range(1000):
        sum(range(100))
        np.sort(numbers)
"""


@dataclass(frozen=True)
class Row:
    """Seconds of one call beside ``busy`` busy processes."""

    call: str
    busy: int
    median: float
    p95: float
    p99: float
    samples: int

    @classmethod
    def of(cls, call: str, busy: int, seconds: Sequence[float]) -> Row:
        """Percentiles interpolate linearly between the timings, of which there are two or more."""
        parts = statistics.quantiles(seconds, n=100, method="inclusive")
        return cls(call, busy, statistics.median(seconds), parts[94], parts[98], len(seconds))


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """``count`` processes that compute all the time; each has begun to."""
    command = [sys.executable, "-c", LOOP]
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(_killed_at_end(command)) for _ in range(count)]
        for process in started:
            assert process.stdout is not None
            if process.stdout.readline() != "busy\n":
                raise RuntimeError(f"latency: busy process must start, got exit code {process.wait()}")
        yield


@contextlib.contextmanager
def _killed_at_end(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def timings(call: Callable[[], object], budget_s: float, least: int, most: int) -> list[float]:
    """Seconds of single calls for ``budget_s``, after one that is not timed; between ``least`` and ``most`` of them."""
    call()
    seconds: list[float] = []
    ends = time.perf_counter() + budget_s
    while len(seconds) < least or (len(seconds) < most and time.perf_counter() < ends):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds


def op_calls() -> dict[str, Callable[[], object]]:
    """The ops, each checked against the reference. Raises SystemExit for one that disagrees with it."""
    calls: dict[str, Callable[[], object]] = {}
    for name, case in CASES.items():
        candidates = [one for one in implementations(case, "cpu", ["cpu"], compiled=False) if one.name == OURS]
        right, refused = gate(case, "cpu", candidates)
        if OURS not in right:
            raise SystemExit(f"latency: {name} must agree with the reference, got {refused}: nothing measured")
        calls[name] = right[OURS]
    return calls


class Explained:
    """The explanation of a caption, whose answer is checked at first; generation and what follows it apart."""

    def __init__(self) -> None:
        self.scene = scenes.sample_scene(np.random.default_rng(12), objects=3)
        self.explainer = Explainer.from_pretrained("tiny")
        self.seconds: dict[str, list[float]] = {"generate": [], "explain": []}
        answer = self.explainer.explain(self.scene.image).answer
        expected = " ".join(scenes.caption(self.scene).answer).replace(" ,", ",")
        if answer != expected:
            raise SystemExit(f"latency: answer must be {expected!r}, got {answer!r}: nothing measured")

    def __call__(self) -> None:
        for part, seconds in self.explainer.explain(self.scene.image).provenance["seconds"].items():
            self.seconds[part].append(seconds)

    def rows(self, busy: int, budget_s: float, least: int) -> list[Row]:
        """Its timings: the whole, and its two parts."""
        self.seconds = {"generate": [], "explain": []}
        whole = timings(self, budget_s, least, 1000)
        return [
            Row.of("caption, generated and explained", busy, whole),
            Row.of("its generation", busy, self.seconds["generate"][1:]),
            Row.of("its explanation", busy, self.seconds["explain"][1:]),
        ]


def measure(budget_s: float, progress: Callable[[str], None]) -> list[Row]:
    """All rows, in about ``budget_s`` seconds for each number of busy processes."""
    with torch.no_grad():
        calls = op_calls()
    explained = Explained()
    rows: list[Row] = []
    for busy in BUSY:
        with busy_processes(busy):
            for name, call in calls.items():
                rows.append(Row.of(name, busy, timings(call, 0.5 * budget_s / len(calls), least=20, most=5000)))
            rows += explained.rows(busy, 0.5 * budget_s, least=12)
        for row in rows[-len(calls) - 3 :]:
            progress(f"{busy} busy: {row.call}: {row.median * 1e3:.2f} ms, p95 {row.p95 * 1e3:.2f} ms")
    return rows


def main(
    budget: Annotated[float, typer.Option(min=0.1, help="Seconds for each number of busy processes.")] = 60.0,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measures, prints, and writes the JSON file."""
    head = {"date": now(), "machine": describe_machine("cpu")}
    rows = measure(budget, typer.echo)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(head | {"rows": [dataclasses.asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
