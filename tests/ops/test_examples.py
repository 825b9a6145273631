"""The examples in the docstrings of the ops, of the settings and of the environment run as shown."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = (
    "config",
    "json_entries",
    "environment",
    "torch_modes",
    "ops.diffusion_cam",
    "ops.guided_filter",
    "ops.overlay",
    "ops.pool",
    "ops.rank_filter",
    "ops.refine",
    "ops.threads",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(f"dcam_fast.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
