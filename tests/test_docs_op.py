"""The op that docs/adding-an-op.md builds works as the page shows it."""

from __future__ import annotations

import doctest
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

PAGE = Path(__file__).parents[1] / "docs" / "adding-an-op.md"


@pytest.fixture(scope="module")
def page() -> ModuleType:
    """The Python blocks as a module. Operators are registered for the whole process, so this runs once."""
    module = ModuleType("sharpen")
    source = "\n\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL))
    sys.modules["sharpen"] = module
    exec(compile(source, str(PAGE), "exec"), module.__dict__)
    return module


def test_the_op_is_correct(page: ModuleType) -> None:
    page.check_sharpen("reference")


def test_the_example_runs(page: ModuleType) -> None:
    assert doctest.testmod(page).failed == 0


def test_the_op_checks_its_arguments(page: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"^sharpen: exponent must be over 0 and at most 8, got 9$"):
        page.sharpen(torch.rand(1, 2, 2), 9, backend="reference")
    with pytest.raises(ValueError, match=r"^sharpen: maps must be \[T, h, w\]"):
        torch.ops.dcam_fast_reference.sharpen(torch.rand(2, 2), 2.0)
    with pytest.raises(RuntimeError, match="sharpen: backend must be one that can run here, got 'triton'"):
        page.sharpen(torch.rand(1, 2, 2), backend="triton")


def test_the_page_names_existing_files() -> None:
    new = {
        "dcam_fast/ops/sharpen.py",
        "csrc/dcam/sharpen.h",
        "csrc/dcam/cpu/sharpen_kernel.h",
        "kernels/dcam/sharpen.py",
    }
    paths = set(re.findall(r"`((?:dcam_fast|csrc|kernels|tests|benchmarks)/[\w/.]+)`", PAGE.read_text("utf-8")))
    assert new <= paths
    for path in paths - new:
        assert (PAGE.parents[1] / path).exists(), path
