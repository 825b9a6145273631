"""The examples in docstrings run as they stand."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import dcam_fast

# Modules that need another package, or that are no part of the public surface.
LEFT_OUT = ("dcam_fast.__main__", "dcam_fast.benchmarks", "dcam_fast.kernels", "dcam_fast.cli", "dcam_fast.service")
# Main classes and functions that must have an example.
SHOWN = ("Explainer", "Explanation", "GradientCAM", "Stream", "load_image")


def module_names() -> list[str]:
    found = pkgutil.walk_packages(dcam_fast.__path__, "dcam_fast.", onerror=lambda name: None)
    return [module.name for module in found if not module.name.startswith(LEFT_OUT)]


@pytest.mark.parametrize("name", module_names())
def test_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert failed == 0


@pytest.mark.parametrize("name", SHOWN)
def test_main_classes_have_an_example(name: str) -> None:
    docstring = getattr(dcam_fast, name).__doc__
    assert doctest.DocTestParser().get_examples(docstring)
