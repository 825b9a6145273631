"""CPU regressions under pytest-benchmark, on the quick cases: `pytest benchmarks --benchmark-enable`.

Without that option each call runs once, checked and untimed.
"""

from __future__ import annotations

from typing import Any

import pytest

from dcam_fast.benchmarks.implementations import available_backends, implementations

pytest_plugins = ["dcam_fast.benchmarks.pytest_cases"]


@pytest.mark.parametrize("backend", available_backends("cpu"))
def test_backend(benchmark: Any, op_case: Any, backend: str) -> None:
    found = {item.name: item for item in implementations(op_case.case, "cpu", [backend], compiled=False)}
    benchmark.group = op_case.case.name
    benchmark(op_case.checked_call(found[f"dcam_fast {backend}"]))
