"""CPU regressions under pytest-benchmark, on the quick cases: `pytest benchmarks --benchmark-enable`.

Without that option each call runs once, checked and untimed.
"""

from __future__ import annotations

from typing import Any

import pytest

from dcam_fast.benchmarks.implementations import available_backends, implementations
from dcam_fast.benchmarks.suite import check_correctness, quick_plan


@pytest.mark.parametrize("case", quick_plan().cases(), ids=lambda case: case.name)
@pytest.mark.parametrize("backend", available_backends("cpu"))
def test_backend(benchmark: Any, case: Any, backend: str) -> None:
    name = f"dcam_fast {backend}"
    ours = [found for found in implementations(case, "cpu", [backend], compiled=False) if found.name == name]
    calls, rejected = check_correctness(case, "cpu", ours)
    assert rejected == {}
    benchmark.group = case.name
    benchmark(calls[name])
