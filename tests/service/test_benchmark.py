"""The benchmark of the service; no test depends on a timing."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import FakeExplainer, listening

from dcam_fast.benchmarks import service
from dcam_fast.benchmarks.report_service import service as table


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A result file of a service that answers at once and has two places."""

    @contextlib.contextmanager
    def fake() -> Iterator[tuple[str, int]]:
        with listening(FakeExplainer(), queue=2) as url:
            yield url, os.getpid()

    monkeypatch.setattr(service, "service", fake)
    monkeypatch.setattr(service, "worker_throughput", lambda images, seconds: 5.0)
    monkeypatch.setattr(service, "CLIENTS", (1, 3))
    path = tmp_path / "a.json"
    service.main(seconds=0.1, out=path)
    return path


def test_rows_and_their_table(measured: Path) -> None:
    data = json.loads(measured.read_text())
    one, three = data["rows"]
    assert (one["clients"], three["clients"]) == (1, 3)
    assert one["refused"] == one["failed"] == three["failed"] == 0
    assert one["throughput"] > 0
    assert one["p50"] <= one["p95"] <= one["p99"]
    assert one["resident"] > 0
    text = table("a.json", data)
    assert "5.00 a second in a loop" in text
    assert "| clients | answers/s |" in text
    assert len(text.splitlines()) == 6


def test_percentiles() -> None:
    assert service.percentile([2.0], 99) == 2.0
    assert service.percentile([float(n) for n in range(101)], 95) == pytest.approx(95.0)
