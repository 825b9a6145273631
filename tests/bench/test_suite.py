"""The suite: correctness check, statistics, schedule, result file, comparisons. No test depends on a timing."""

from __future__ import annotations

import dataclasses
import io
import json
import time

import pytest
import torch
from rich.console import Console

from dcam_fast.benchmarks import suite, timing
from dcam_fast.benchmarks.implementations import Implementation, available_backends, implementations
from dcam_fast.benchmarks.op_cases import BenchmarkCase, all_cases, disagreement, exact, make_inputs
from dcam_fast.benchmarks.plots import write_plots
from dcam_fast.benchmarks.results import Entry, Results, now
from dcam_fast.benchmarks.suite import BenchmarkPlan, Rejection, check_correctness, quick_plan, run_case
from dcam_fast.benchmarks.tables import compare, markdown
from dcam_fast.benchmarks.timing import Limits, Statistics, Timer, cache_bytes, schedule
from dcam_fast.cli import bench_output
from dcam_fast.cli.options import Format

SMALL = [
    BenchmarkCase("op", "pool", "elementwise", 2, (5, 7), 32, "bfloat16"),
    BenchmarkCase("op", "pool", "pooled", 2, (5, 7), 32),
    BenchmarkCase("op", "refine", "released", 1, (9, 13)),
    BenchmarkCase("op", "refine", "paper", 2, (9, 13)),
    BenchmarkCase("op", "overlay", "turbo", 1, (5, 7), image=(31, 40)),
    BenchmarkCase("op", "guided_filter", "default", 2, (9, 13)),
    BenchmarkCase("op", "refine", "default", 1, (27, 27)),
    BenchmarkCase("op", "refine", "unguided", 1, (9, 13)),
    BenchmarkCase("post-processing", "diffusion_cam", "pooled, default", 2, (5, 7), 32),
    BenchmarkCase("post-processing", "diffusion_cam", "pooled, released", 2, (5, 7), 32),
]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_implementations_agree_with_the_reference(case):
    candidates = implementations(case, "cpu", available_backends("cpu"), compiled=False)
    calls, rejected = check_correctness(case, "cpu", candidates)
    assert rejected == {}
    assert set(calls) == {candidate.name for candidate in candidates}


@pytest.mark.parametrize("wrong", ["value", "shape", "nan", "raises"])
def test_wrong_implementations_are_rejected(wrong):
    case = SMALL[2]

    def build(case, inputs):
        right = exact(case, inputs).float()
        if wrong == "raises":
            raise RuntimeError("no such kernel")
        answer = {"value": right + 3e-5, "shape": right[..., 1:], "nan": right * torch.nan}[wrong]
        return lambda: answer

    timer = Timer("cpu")
    limits = Limits(1e9, 1e9)
    entries = run_case(case, timer, limits, [Implementation("wrong", build)], budget_s=0.01, max_samples=3)
    assert [entry.median for entry in entries] == [None]
    expected = {"value": "off by", "shape": "shape", "nan": "not finite", "raises": "RuntimeError: no such kernel"}
    assert expected[wrong] in entries[0].reason


def test_disagreement_of_pictures():
    case = SMALL[4]
    right = exact(case, make_inputs(case, "cpu"))
    assert disagreement(case, right, right) is None
    assert disagreement(case, right + 1, right) is not None


def test_statistics():
    statistics = Statistics.from_seconds([float(i) for i in range(11)])
    assert (statistics.median, statistics.p10, statistics.p90, statistics.samples) == (5, 1, 9, 11)
    assert Statistics.from_seconds([2.0]) == Statistics(2, 2, 2, 1)
    with pytest.raises(ValueError, match="got none"):
        Statistics.from_seconds([])


def test_schedule_interleaves():
    plan = schedule([6, 2, 3])
    assert [sum(i in order for order in plan) for i in range(3)] == [6, 2, 3]
    assert len({order[0] for order in plan}) > 1
    assert schedule([]) == []


def test_cold_samples_empty_the_cache(monkeypatch):
    timer = Timer("cpu")
    assert timer._sweep.numel() >= 2 * cache_bytes("cpu")
    events = []
    monkeypatch.setattr(timer, "flush", lambda: events.append("flush"))
    timer.sample(lambda: events.append("call"), 3, True)
    timer.sample(lambda: events.append("call"), 2, False)
    assert events == ["flush", "call", "call", "call"]


def test_floor_is_the_longer_time():
    assert Limits(100, 10).floor((100, 5)) == 1
    assert Limits(100, 10).floor((100, 50)) == 5


def test_case_names_are_unique():
    for device in ("cpu", "cuda"):
        names = [case.name for case in all_cases(device)]
        assert len(names) == len(set(names))


def test_quick_has_every_op():
    quick = quick_plan().cases()
    assert {case.op for case in quick} == {"pool", "refine", "guided_filter", "overlay", "diffusion_cam"}
    assert len(quick) <= 11
    assert {case.targets for case in BenchmarkPlan(only="refine").cases()} == {1, 8, 64}


def test_unavailable_backend_is_rejected():
    with pytest.raises(ValueError, match="got 'abacus'"):
        BenchmarkPlan(backends=("abacus",)).available_backends()
    with pytest.raises(ValueError, match="only must be part"):
        suite.run(BenchmarkPlan(only="no such case"))


def results(median: float = 1e-3) -> Results:
    entry = Entry("op", "refine", "released", "c", 1, 729, "dcam_fast cpu", "cpu", "cold")
    timed = dataclasses.replace(entry, median=median, p10=0.9 * median, p90=1.1 * median, samples=9, floor=5e-4)
    names = ("device", "threads", "cores", "mhz", "governor", "load", "torch", "triton", "commit")
    wrong = dataclasses.replace(entry, implementation="other", cache="", reason="off by 1")
    return Results(now(), dict.fromkeys(names, "x"), Limits(1e9, 1e9), [timed, wrong], ["cut for time: d"])


def test_json_round_trip():
    assert Results.from_json(results().to_json()) == results()
    with pytest.raises(ValueError, match="schema 1, got 7"):
        Results.from_json(json.dumps({"schema": 7}))


def test_markdown_has_figures_and_reasons():
    text = markdown(results())
    assert "| dcam_fast cpu | cold | 1.00 ms | 900.0 µs to 1.10 ms | 50% |" in text
    assert "off by 1" in text
    assert "cut for time: d" in text


def test_compare_ignores_changes_within_the_spread():
    assert compare(results(), results(1.1e-3)) == []
    assert "2.00 times as fast" in compare(results(), results(5e-4))[0][-1]
    assert "takes 2.00 times as long" in compare(results(), results(2e-3))[0][-1]


def test_plots_are_written(tmp_path):
    assert [path.name for path in write_plots(results(), tmp_path, "a")] == [
        "a-targets.png",
        "a-grid.png",
        "a-limit.png",
    ]


def test_timing_stops_when_the_budget_has_passed(monkeypatch):
    """On a machine that became busier than estimated, only the minimum number of timings is taken."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "monotonic", lambda: now[0])
    timer = Timer("cpu")

    def sample(call, calls, cold):
        now[0] += call()
        return 1e-3

    monkeypatch.setattr(timer, "sample", sample)
    on_time = timing.measure(timer, [lambda: 1e-3], cold=False, budget_s=1.0, max_samples=50)
    late = timing.measure(timer, [lambda: 1.0, lambda: 2.0], cold=False, budget_s=1.0, max_samples=50)
    assert [statistics.samples for statistics in on_time] == [50]
    assert [statistics.samples for statistics in late] == [timing.MIN_SAMPLES] * 2


def test_baselines_are_cut_first():
    case = SMALL[2]
    candidates = implementations(case, "cpu", available_backends("cpu"), compiled=False)
    calls, rejected = check_correctness(case, "cpu", candidates, ends=time.monotonic() - 1)
    assert set(calls) == {candidate.name for candidate in candidates if candidate.origin == "dcam_fast"}
    baselines = [candidate.name for candidate in candidates if candidate.origin == "baseline"]
    assert rejected == dict.fromkeys(baselines, Rejection("cut for time"))


def test_a_case_that_fails_leaves_the_results_of_the_others(monkeypatch):
    """As after an error of CUDA's, which every later call reports again."""
    run_case, saved = suite.run_case, []

    def break_down(case, *args, **options):
        if saved:
            raise RuntimeError("CUDA error: misaligned address\nmore")
        return run_case(case, *args, **options)

    monkeypatch.setattr(suite, "run_case", break_down)
    plan = BenchmarkPlan(quick=True, only="refine", total_s=2.0, max_samples=3)
    first, *others = plan.cases()
    found = suite.run(plan, save=lambda results: saved.append(Results.from_json(results.to_json())))
    assert {entry.case for entry in found.entries} == {first.name}
    assert found.notes == [f"failed: {case.name}: CUDA error: misaligned address" for case in others]
    assert len(saved) == len(plan.cases())
    assert saved[0].entries == found.entries
    assert saved[0].notes == []


def test_cut_cases_are_named():
    found = suite.run(dataclasses.replace(quick_plan(BenchmarkPlan(only="refine")), total_s=0.0))
    assert found.entries == []
    assert found.notes == [f"cut for time: {case.name}" for case in quick_plan(BenchmarkPlan(only="refine")).cases()]


def test_quick_plan_counts_elapsed_time():
    plan = BenchmarkPlan(op="pool")
    assert quick_plan(plan, elapsed_s=7.0).total_s == quick_plan().total_s - 7.0
    assert quick_plan(plan).op == "pool"


@pytest.mark.parametrize("terminal", [True, False])
def test_output_without_a_terminal_is_markdown(terminal):
    """One line per row, of any width; a terminal gets a table that fits."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=40, soft_wrap=True, highlight=False)
    bench_output.print_results(results(), Format.TABLE, console)
    line = "| dcam_fast cpu | cold | 1.00 ms | 900.0 µs to 1.10 ms | 50% |  |"
    assert (line in text.getvalue().splitlines()) != terminal
