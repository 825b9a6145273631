"""The benchmarks of many requests and of budgets; no test depends on a timing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dcam_fast import BudgetError, Explainer
from dcam_fast.benchmarks import budgets, many
from dcam_fast.benchmarks.report_many import budgets as budgets_table
from dcam_fast.benchmarks.report_many import many as many_table


def test_both_sides_and_their_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(many, "check_equal", lambda *_: None)
    monkeypatch.setattr(many, "loop_seconds", lambda *_: 3.0)
    monkeypatch.setattr(many, "many_seconds", lambda *_: (2.0, [2**20, 2**21, 2**22]))
    many.main(count=8, rounds=2, out=tmp_path / "a.json")
    data = json.loads((tmp_path / "a.json").read_text())
    text = many_table("a.json", data)
    assert "| explain_many | 2.00 s | 4.00 | 1.50 |" in text
    assert "by round: 1 / 2 / 4, 1 / 2 / 4." in text


def test_other_results_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = Explainer.from_pretrained("tiny")
    monkeypatch.setattr(explainer, "explain_many", lambda requests: list(requests))
    with pytest.raises(SystemExit, match=r"many: explanation must be that of explain, .*: nothing measured"):
        many.check_equal(explainer, 1)


def test_memory_is_read_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = Explainer.from_pretrained("tiny")
    monkeypatch.setattr(explainer, "explain_many", lambda requests: list(requests))
    seconds, memory = many.many_seconds(explainer, 8)
    assert seconds > 0
    assert len(memory) == 3
    assert min(memory) > 0


def test_budgets_are_counted_and_their_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    explainer, outcomes = Explainer.from_pretrained("tiny"), iter([None, "maps", "maps"])

    class Found:
        def __init__(self) -> None:
            self.provenance = {"budget": {"chosen": "maps"}}

    def explain(image: object, budget_ms: float) -> Found:
        if next(outcomes) is None:
            raise BudgetError("too small")
        return Found()

    monkeypatch.setattr(explainer, "explain", explain)
    row = budgets.measure(explainer, 0, 1e9, 3)
    assert (row.within, row.late, row.refused, row.chosen) == (2, 0, 1, {"maps": 2})
    monkeypatch.setattr(budgets, "measure", lambda _, busy, ms, calls: budgets.Row(busy, ms, 4, 2, 1, 1, 5.0, {"x": 3}))
    monkeypatch.setattr(budgets.os, "cpu_count", lambda: 0)
    monkeypatch.setattr(budgets, "busy_processes", lambda _: pytest.MonkeyPatch.context())
    budgets.main(calls=4, out=tmp_path / "b.json")
    data = json.loads((tmp_path / "b.json").read_text())
    assert "| 0 | 1400 ms | 50.0% | 25.0% | 25.0% | 5 ms | x (3) |" in budgets_table("b.json", data)
