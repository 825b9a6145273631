"""Where dcam_fast.kernels is found, and which of these tests can run in this process."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import dcam_fast
from dcam_fast.ops import _faces

if importlib.util.find_spec("dcam_fast.kernels") is None:
    # a checkout that is on the path and not installed: the folder `kernels` lies beside the package
    dcam_fast.__path__.append(str(Path(__file__).parents[2]))

# It launches kernels: on a GPU, or in the process that test_interpreter.py starts.
collect_ignore = [] if _faces.FACES["triton"].unusable() is None else ["test_kernels.py"]
