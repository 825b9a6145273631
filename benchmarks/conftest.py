"""Benchmarks run alone, never with the tests: ``./run python -m pytest benchmarks --benchmark-json=FILE``."""

from __future__ import annotations

import platform
from typing import Any

import pytest
import torch

import dcam_fast


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["dcam_fast"] = dcam_fast.__version__
    machine_info["torch"] = torch.__version__
    machine_info["threads"] = torch.get_num_threads()
    machine_info["platform"] = platform.platform()


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]) -> None:
    """Keeps the statistics and drops the thousands of single timings behind them."""
    for case in output_json["benchmarks"]:
        case["stats"].pop("data", None)


@pytest.fixture
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
