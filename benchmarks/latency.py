"""Latency of the ops and of a whole explanation, on an idle machine and next to busy processes.

Run: `./run python -m dcam_fast.benchmarks.latency --out benchmarks/results/DATE-latency.json` (six minutes, two cores).
Each call is checked against the reference, then timed one call at a time. Each busy process keeps one core computing.

JSON: the header of `results.header`, and `rows`, one per call and number of busy processes: `call`, `busy`, `median`,
`p95` and `p99` in seconds, `samples`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from dcam_fast import Explainer, scenes
from dcam_fast.benchmarks.implementations import implementations
from dcam_fast.benchmarks.op_cases import BenchmarkCase
from dcam_fast.benchmarks.results import header, write_result
from dcam_fast.benchmarks.suite import check_correctness

BUSY = (0, 1, 2, 3, 4)
OURS = "dcam_fast cpu"
CASES = {
    "refine, 1 map 27x27": BenchmarkCase("op", "refine", "released", 1, (27, 27)),
    "refine, 64 maps 27x27": BenchmarkCase("op", "refine", "released", 64, (27, 27)),
    "diffusion_cam, 27x27, D = 4096, bfloat16": BenchmarkCase(
        "post-processing", "diffusion_cam", "pooled, released", 1, (27, 27), 4096, "bfloat16"
    ),
    "overlay, 640x480 pixels": BenchmarkCase("op", "overlay", "turbo", 1, (27, 27), image=(480, 640)),
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
    """Seconds of one call next to `busy` busy processes."""

    call: str
    busy: int
    median: float
    p95: float
    p99: float
    samples: int

    @classmethod
    def from_seconds(cls, call: str, busy: int, seconds: Sequence[float]) -> Row:
        """Percentiles interpolate linearly; at least two timings."""
        parts = statistics.quantiles(seconds, n=100, method="inclusive")
        return cls(call, busy, statistics.median(seconds), parts[94], parts[98], len(seconds))


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keeps `count` processes computing while the context is open."""
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


def timings(call: Callable[[], object], budget_s: float, min_samples: int, max_samples: int) -> list[float]:
    """Seconds of `min_samples` to `max_samples` single calls, for about `budget_s` seconds, after one untimed call."""
    call()
    seconds: list[float] = []
    ends = time.perf_counter() + budget_s
    while len(seconds) < min_samples or (len(seconds) < max_samples and time.perf_counter() < ends):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds


def op_calls() -> dict[str, Callable[[], object]]:
    """The ops, each checked against the reference.

    Raises:
        SystemExit: An op disagrees with the reference.
    """
    calls: dict[str, Callable[[], object]] = {}
    for name, case in CASES.items():
        candidates = [found for found in implementations(case, "cpu", ["cpu"], compiled=False) if found.name == OURS]
        calls_of_case, rejected = check_correctness(case, "cpu", candidates)
        if OURS not in calls_of_case:
            raise SystemExit(f"latency: {name} must agree with the reference, got {rejected}: nothing measured")
        calls[name] = calls_of_case[OURS]
    return calls


class CaptionBenchmark:
    """The explanation of a caption, whose answer is checked first. Generation and explanation are also timed apart."""

    def __init__(self) -> None:
        self.scene = scenes.sample_scene(np.random.default_rng(12), objects=3)
        self.explainer = Explainer.from_pretrained("tiny")
        self.seconds: dict[str, list[float]] = {"generate": [], "explain": []}
        answer = self.explainer.explain(self.scene.image).answer
        expected = " ".join(scenes.caption(self.scene).answer).replace(" ,", ",")
        if answer != expected:
            raise SystemExit(f"latency: answer must be {expected!r}, got {answer!r}: nothing measured")

    def __call__(self) -> None:
        seconds: Any = self.explainer.explain(self.scene.image).provenance["seconds"]
        for part in self.seconds:
            self.seconds[part].append(seconds[part])

    def rows(self, busy: int, budget_s: float, min_samples: int) -> list[Row]:
        """Timings of the whole call and of its two parts."""
        self.seconds = {"generate": [], "explain": []}
        whole = timings(self, budget_s, min_samples, 1000)
        return [
            Row.from_seconds("caption, generated and explained", busy, whole),
            Row.from_seconds("its generation", busy, self.seconds["generate"][1:]),
            Row.from_seconds("its explanation", busy, self.seconds["explain"][1:]),
        ]


def measure(budget_s: float, progress: Callable[[str], None]) -> list[Row]:
    """All rows, in about `budget_s` seconds for each number of busy processes."""
    with torch.no_grad():
        calls = op_calls()
    explained = CaptionBenchmark()
    rows: list[Row] = []
    for busy in BUSY:
        with busy_processes(busy):
            for name, call in calls.items():
                rows.append(
                    Row.from_seconds(
                        name, busy, timings(call, 0.5 * budget_s / len(calls), min_samples=20, max_samples=5000)
                    )
                )
            rows += explained.rows(busy, 0.5 * budget_s, min_samples=12)
        for row in rows[-len(calls) - 3 :]:
            progress(f"{busy} busy: {row.call}: {row.median * 1e3:.2f} ms, p95 {row.p95 * 1e3:.2f} ms")
    return rows


def main(
    budget: Annotated[float, typer.Option(min=0.1, help="Seconds for each number of busy processes.")] = 60.0,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measures, prints, and writes the JSON file."""
    head = header("cpu")
    rows = measure(budget, typer.echo)
    if out:
        write_result(out, head, rows=[dataclasses.asdict(row) for row in rows])


if __name__ == "__main__":
    typer.run(main)
