"""The names that `dcam_fast` offers."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dcam_fast


def test_dir_shows_public_names_only() -> None:
    modules = ["attribution", "config", "evaluation", "models", "ops", "scenes", "testing"]
    assert dir(dcam_fast) == sorted([*dcam_fast.__all__, *modules, "__version__"])


@pytest.mark.parametrize("name", dir(dcam_fast))
def test_public_names_exist(name: str) -> None:
    value = getattr(dcam_fast, name)
    assert value is not None
    if callable(value):
        assert value.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'dcam_fast' has no attribute 'explain'"):
        dcam_fast.explain  # noqa: B018


def test_type_checkers_see_the_same_names() -> None:
    """`__all__`, the table of modules and the imports under TYPE_CHECKING name the same things."""
    assert set(dcam_fast.__all__) == dcam_fast._MODULE_OF.keys()
    source = Path(importlib.import_module("dcam_fast").__file__ or "").read_text("utf-8")
    for name, module in dcam_fast._MODULE_OF.items():
        assert f"from dcam_fast.{module} import" in source, name


def test_the_api_page_has_every_class_and_function() -> None:
    page = (Path(__file__).parents[1] / "docs" / "api.rst").read_text("utf-8")
    modules = [importlib.import_module(name) for name in re.findall(r"automodule:: (\S+)", page)]
    for name in dcam_fast.__all__:
        value = getattr(dcam_fast, name)
        if isinstance(value, type) or inspect.isfunction(value):
            is_member = any(getattr(module, name, None) is value for module in modules)
            assert is_member or f":: dcam_fast.{name}\n" in page, name


def test_import_alone_loads_no_torch() -> None:
    code = "import sys, dcam_fast; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
