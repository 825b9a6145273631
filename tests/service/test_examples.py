"""The examples in the docstrings of the service run as they stand."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import needs_serve  # noqa: F401, skips the tests that lack a package
import pytest

NAMES = ("app", "answering", "events", "fetching", "settings")


def test_names_of_modules() -> None:
    package = importlib.import_module("dcam_fast.service")
    assert {module.name for module in pkgutil.iter_modules(package.__path__)} >= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_examples_run(name: str) -> None:
    module = importlib.import_module(f"dcam_fast.service.{name}")
    failed, attempted = doctest.testmod(module)
    assert (failed, attempted > 0) == (0, True)
