"""The suite's logic: the gate, the statistics, the schedule, the result file, comparisons. Nothing here is a timing."""

from __future__ import annotations

import dataclasses
import io
import json
import time

import pytest
import torch
from rich.console import Console

from dcam_fast.benchmarks import suite, timing
from dcam_fast.benchmarks.cases import Case, all_cases, disagreement, exact, make_inputs
from dcam_fast.benchmarks.implementations import Implementation, available_backends, implementations
from dcam_fast.benchmarks.plots import write_plots
from dcam_fast.benchmarks.results import Entry, Results, now
from dcam_fast.benchmarks.suite import Plan, gate, quick_plan, run_case
from dcam_fast.benchmarks.tables import compare, markdown
from dcam_fast.benchmarks.timing import Clock, Limits, Statistics, cache_bytes, schedule
from dcam_fast.cli import benchmarks as command

SMALL = [
    Case("op", "pool", "elementwise", 2, (5, 7), 32, "bfloat16"),
    Case("op", "pool", "pooled", 2, (5, 7), 32),
    Case("op", "refine", "released", 1, (9, 13)),
    Case("op", "refine", "paper", 2, (9, 13)),
    Case("op", "overlay", "turbo", 1, (5, 7), image=(31, 40)),
    Case("op", "guided_filter", "default", 2, (9, 13)),
    Case("op", "refine", "default", 1, (27, 27)),
    Case("op", "refine", "unguided", 1, (9, 13)),
    Case("post-processing", "diffusion_cam", "pooled, default", 2, (5, 7), 32),
    Case("post-processing", "diffusion_cam", "pooled, released", 2, (5, 7), 32),
]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_all_agree(case):
    candidates = implementations(case, "cpu", available_backends("cpu"), compiled=False)
    calls, refused = gate(case, "cpu", candidates)
    assert refused == {}
    assert set(calls) == {candidate.name for candidate in candidates}


@pytest.mark.parametrize("wrong", ["value", "shape", "nan", "raises"])
def test_gate_refuses(wrong):
    case = SMALL[2]

    def build(case, inputs):
        right = exact(case, inputs)
        if wrong == "raises":
            raise RuntimeError("no such kernel")
        answer = {"value": right + 3e-5, "shape": right[..., 1:], "nan": right * torch.nan}[wrong]
        return lambda: answer

    clock = Clock("cpu")
    limits = Limits(1e9, 1e9)
    entries = run_case(case, clock, limits, [Implementation("wrong", build)], budget_s=0.01, most=3)
    assert [entry.median for entry in entries] == [None]
    expected = {"value": "off by", "shape": "shape", "nan": "not finite", "raises": "RuntimeError: no such kernel"}
    assert expected[wrong] in entries[0].reason


def test_disagreement_of_pictures():
    case = SMALL[4]
    right = exact(case, make_inputs(case, "cpu"))
    assert disagreement(case, right, right) is None
    assert disagreement(case, right + 1, right) is not None


def test_statistics():
    one = Statistics.of([float(i) for i in range(11)])
    assert (one.median, one.p10, one.p90, one.samples) == (5, 1, 9, 11)
    assert Statistics.of([2.0]) == Statistics(2, 2, 2, 1)
    with pytest.raises(ValueError, match="got none"):
        Statistics.of([])


def test_schedule_takes_turns():
    plan = schedule([6, 2, 3])
    assert [sum(i in order for order in plan) for i in range(3)] == [6, 2, 3]
    assert len({order[0] for order in plan}) > 1
    assert schedule([]) == []


def test_cold_samples_empty_the_cache(monkeypatch):
    clock = Clock("cpu")
    assert clock._sweep.numel() >= 2 * cache_bytes("cpu")
    events = []
    monkeypatch.setattr(clock, "flush", lambda: events.append("flush"))
    clock.sample(lambda: events.append("call"), 3, True)
    clock.sample(lambda: events.append("call"), 2, False)
    assert events == ["flush", "call", "call", "call"]


def test_limit_is_the_longer_of_both():
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
    assert {case.targets for case in Plan(only="refine").cases()} == {1, 8, 64}


def test_unusable_face_is_refused():
    with pytest.raises(ValueError, match="got 'abacus'"):
        Plan(backends=("abacus",)).usable()
    with pytest.raises(ValueError, match="only must be part"):
        suite.run(Plan(only="no such case"))


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


def test_compare_needs_more_than_the_spread():
    assert compare(results(), results(1.1e-3)) == []
    assert "2.00 times as fast" in compare(results(), results(5e-4))[0][-1]
    assert "takes 2.00 times as long" in compare(results(), results(2e-3))[0][-1]


def test_plots_are_written(tmp_path):
    assert [path.name for path in write_plots(results(), tmp_path, "a")] == [
        "a-targets.png",
        "a-grid.png",
        "a-limit.png",
    ]


def test_what_is_late_stops(monkeypatch):
    """A machine that is busier than its estimate: no more timings than a median needs."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "monotonic", lambda: now[0])
    clock = Clock("cpu")

    def sample(call, calls, cold):
        now[0] += call()
        return 1e-3

    monkeypatch.setattr(clock, "sample", sample)
    on_time = timing.measure(clock, [lambda: 1e-3], cold=False, budget_s=1.0, most=50)
    late = timing.measure(clock, [lambda: 1.0, lambda: 2.0], cold=False, budget_s=1.0, most=50)
    assert [one.samples for one in on_time] == [50]
    assert [one.samples for one in late] == [timing.MIN_SAMPLES] * 2


def test_baselines_are_cut_before_our_own():
    case = SMALL[2]
    candidates = implementations(case, "cpu", available_backends("cpu"), compiled=False)
    calls, refused = gate(case, "cpu", candidates, ends=time.monotonic() - 1)
    assert set(calls) == {candidate.name for candidate in candidates if candidate.ours}
    assert refused == {candidate.name: "cut for time" for candidate in candidates if not candidate.ours}


def test_cut_cases_are_named():
    found = suite.run(dataclasses.replace(quick_plan(only="refine"), total_s=0.0))
    assert found.entries == []
    assert found.notes == [f"cut for time: {case.name}" for case in quick_plan(only="refine").cases()]


def test_a_quick_run_counts_what_has_passed():
    assert quick_plan(elapsed_s=7.0).total_s == quick_plan().total_s - 7.0


@pytest.mark.parametrize("terminal", [True, False])
def test_a_pipe_gets_whole_lines(monkeypatch, terminal):
    """One line a row, however narrow; a terminal gets a table of its width."""
    monkeypatch.setattr(command, "run", lambda plan, progress: results())
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=40, soft_wrap=True, highlight=False)
    command.bench("cpu", True, "", (), None, console)
    line = "| dcam_fast cpu | cold | 1.00 ms | 900.0 µs to 1.10 ms | 50% |  |"
    assert (line in text.getvalue().splitlines()) != terminal
