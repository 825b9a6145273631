"""CPU regressions under pytest-benchmark, from the same cases: ``pytest benchmarks --benchmark-enable``. Without that
option (as in the tests) each call runs once, gated and untimed."""

from __future__ import annotations

from typing import Any

import pytest

from dcam_fast.benchmarks.implementations import available_backends, implementations
from dcam_fast.benchmarks.suite import gate, quick_plan


@pytest.mark.parametrize("case", quick_plan().cases(), ids=lambda case: case.name)
@pytest.mark.parametrize("backend", available_backends("cpu"))
def test_face(benchmark: Any, case: Any, backend: str) -> None:
    ours = [
        one for one in implementations(case, "cpu", [backend], compiled=False) if one.name == f"dcam_fast {backend}"
    ]
    calls, refused = gate(case, "cpu", ours)
    assert refused == {}
    benchmark.group = case.name
    benchmark(calls[ours[0].name])
