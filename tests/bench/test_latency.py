"""The benchmark of latency next to busy processes; no test depends on a timing."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from dcam_fast.benchmarks import latency
from dcam_fast.benchmarks.report_latency import latency as table


def test_busy_processes_end_with_the_context(monkeypatch):
    started = []

    class Noted(subprocess.Popen):
        def __init__(self, *args, **named):
            super().__init__(*args, **named)
            started.append(self)

    def interrupted():
        with latency.busy_processes(2):
            assert [process.poll() for process in started] == [None, None]
            raise KeyboardInterrupt

    monkeypatch.setattr(latency.subprocess, "Popen", Noted)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [process.returncode for process in started] == [-9, -9]
    with latency.busy_processes(0):
        pass
    assert len(started) == 2


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "print('other')"])
def test_failure_to_start_a_busy_process_raises(monkeypatch, code):
    monkeypatch.setattr(latency, "LOOP", code)
    with (
        pytest.raises(RuntimeError, match="latency: busy process must start, got exit code"),
        latency.busy_processes(1),
    ):
        pass


def test_percentiles():
    row = latency.Row.from_seconds("call", 1, [float(i) for i in range(101)])
    assert (row.median, row.p95, row.p99, row.samples) == (50, 95, 99, 101)


def test_timings_are_single_calls():
    calls = []
    assert len(latency.timings(lambda: calls.append(1), 0.0, min_samples=3, max_samples=9)) == 3
    assert len(calls) == 4
    assert len(latency.timings(lambda: calls.append(1), 3600.0, min_samples=3, max_samples=9)) == 9


def test_wrong_ops_are_not_timed(monkeypatch):
    monkeypatch.setattr(latency, "check_correctness", lambda *args: ({}, {latency.OURS: "off by 1"}))
    with pytest.raises(SystemExit, match=r"must agree with the reference, got \{'dcam_fast cpu': 'off by 1'\}"):
        latency.op_calls()


def test_rows_and_their_table(monkeypatch, tmp_path):
    monkeypatch.setattr(latency, "BUSY", (0, 1))
    monkeypatch.setattr(latency, "op_calls", lambda: {"op": lambda: None})
    monkeypatch.setattr(
        latency.CaptionBenchmark,
        "rows",
        lambda self, busy, budget_s, min_samples: [latency.Row("whole", busy, 1, 2, 3, 4)],
    )
    monkeypatch.setattr(latency.CaptionBenchmark, "__init__", lambda self: None)
    path = tmp_path / "results" / "a.json"
    latency.main(budget=0.1, out=path)
    data = json.loads(path.read_text())
    assert [(row["call"], row["busy"]) for row in data["rows"]] == [("op", 0), ("whole", 0), ("op", 1), ("whole", 1)]
    text = table("a.json", data)
    assert "| busy processes | 0 | 1 |" in text
    assert "| whole | 1.00 s / 2.00 s / 3.00 s | 1.00 s / 2.00 s / 3.00 s |" in text
    assert data["machine"]["cores"] == os.cpu_count()
