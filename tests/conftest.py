"""Where the folders that are parts of the package lie."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import dcam_fast

if importlib.util.find_spec("dcam_fast.benchmarks") is None:
    # a checkout that is on the path and not installed: they lie beside the package
    dcam_fast.__path__.append(str(Path(__file__).parents[1]))
