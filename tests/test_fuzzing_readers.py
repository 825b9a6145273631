"""A few calls of each target of the fuzzing of readers; `tools/fuzz` makes many."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

PATH = Path(__file__).parents[1] / "tools" / "fuzzing" / "readers.py"
CALLS = 100


@pytest.fixture(scope="module")
def readers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readers", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")  # what Pillow says of damaged files
@pytest.mark.parametrize("name", ["images", "rle", "polygons", "coco", "explanation"])
def test_readers_take_or_refuse(readers: ModuleType, name: str) -> None:
    if name in ("polygons", "coco"):
        pytest.importorskip("pycocotools", reason="pycocotools (the extra 'eval') is not installed")
    assert list(readers.TARGETS) == ["images", "rle", "polygons", "coco", "explanation"]
    for seed in range(CALLS):
        readers.TARGETS[name](np.random.default_rng(seed))
