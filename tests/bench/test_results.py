"""Result files and the examples in the docstrings of the benchmarks."""

from __future__ import annotations

import doctest
import json
from types import ModuleType

import pytest

from dcam_fast.benchmarks import op_cases, suite, tables, timing
from dcam_fast.benchmarks.attribution import memory
from dcam_fast.benchmarks.results import header, write_result
from dcam_fast.output.tables import markdown_table


@pytest.mark.parametrize("module", [memory, op_cases, suite, tables, timing])
def test_examples_run(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_result_files_begin_with_the_header(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_result(path, header("cpu"), rows=[1, 2])
    data = json.loads(path.read_text())
    assert list(data) == ["created", "machine", "rows"]
    assert {"device", "cores", "threads", "load", "torch", "commit"} <= data["machine"].keys()
    assert data["rows"] == [1, 2]


def test_each_column_has_its_alignment():
    assert markdown_table(["a", "b", "c"], [["1", "2", "3"]], "rll").split("\n") == [
        "| a | b | c |",
        "| ---: | --- | --- |",
        "| 1 | 2 | 3 |",
    ]
