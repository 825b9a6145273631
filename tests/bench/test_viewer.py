"""The benchmark of the page; no test depends on a timing."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest

from dcam_fast.benchmarks import viewer
from dcam_fast.benchmarks.report_latency import frames as table


def test_rows_are_of_the_times_between_frames():
    row = viewer.Row.from_times("scrub", 60, [0.0, 10.0, 30.0, 60.0], 0.001)
    assert row == viewer.Row("scrub", 60, 0.02, pytest.approx(0.029), pytest.approx(0.0298), 0.001, 3, 50.0)


def test_the_table_has_a_row_for_each_action_and_limit():
    rows = [viewer.Row("scrub", limit, 0.02, 0.03, 0.04, 0.001, 3, 50.0) for limit in (60, None)]
    machine = {"device": "a CPU", "cores": 2, "load": 0.5}
    data = {"browser": "Chromium 1", "machine": machine, "rows": [dataclasses.asdict(row) for row in rows]}
    lines = table("x-viewer.json", data).splitlines()
    assert "a CPU, 2 cores, load 0.5 at the start; from `benchmarks/results/x-viewer.json`" in lines[0]
    assert lines[-2:] == [
        "| scrub | 60 a second | 50 | 20.00 ms | 30.00 ms | 1.00 ms |",
        "| scrub | none | 50 | 20.00 ms | 30.00 ms | 1.00 ms |",
    ]


@pytest.fixture
def small(monkeypatch):
    """Few pixels, and a browser."""
    pytest.importorskip("playwright.sync_api", reason="the page is timed in a browser, by playwright")
    if not any(map(viewer.shutil.which, viewer.BROWSERS)):
        pytest.skip("the page is timed in a browser, which was not found")
    monkeypatch.setattr(viewer, "SIZE", (90, 160))


def test_every_action_is_timed_with_and_without_a_limit(small):
    version, rows = viewer.measure(5)
    assert version
    assert [row.limit for row in rows] == [60] * 4 + [None] * 4
    assert len({row.action for row in rows}) == 4
    assert {row.frames for row in rows} == {4}


def test_a_page_that_draws_something_else_is_not_timed(small, monkeypatch):
    shown = viewer.explanation()
    other = replace(shown, maps=1 - shown.maps)
    found = iter([shown, other])
    monkeypatch.setattr(viewer, "explanation", lambda: next(found))
    with pytest.raises(SystemExit, match=r"viewer: the page must draw as ops.overlay does, got a difference of"):
        viewer.measure(5)


def test_no_browser_is_an_error(monkeypatch):
    pytest.importorskip("playwright.sync_api", reason="the page is timed in a browser, by playwright")
    monkeypatch.setattr(viewer, "BROWSERS", ("no-such-browser",))
    with pytest.raises(SystemExit, match="viewer: needs a browser, one of no-such-browser"):
        viewer.measure(5)
