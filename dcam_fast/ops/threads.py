"""How many threads an op on the CPU may use. They are the package's own, not torch's: see csrc/dcam/cpu/threads.h."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

import torch

from dcam_fast.ops import _backends

VARIABLE: Final = "DCAM_NUM_THREADS"
LIMIT: Final = 1024
DEFAULT_LIMIT: Final = 16  # the ops read memory more than they compute: it is fully used before


def set_num_threads(count: int) -> None:
    """Sets how many threads one op on CPU tensors may use, the calling one included, in the whole process.

    Results are bitwise identical for every count. Work of under 0.2 ms stays on the calling thread. Threads of torch
    are not affected, nor are the other backends.

    Raises:
        TypeError: for a count that is not an int.
        ValueError: for a count that is not from 1 to 1024.
    """
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"set_num_threads: count must be an int from 1 to {LIMIT}, got {count!r}")
    if not 1 <= count <= LIMIT:
        raise ValueError(f"set_num_threads: count must be an int from 1 to {LIMIT}, got {count}")
    _use(count)


def get_num_threads() -> int:
    """How many threads one op on CPU tensors may use: what `set_num_threads` was given last, else the environment
    variable DCAM_NUM_THREADS, else torch's number of threads at import, at most 16 and the CPUs of the container."""
    return _count


def _use(count: int) -> None:
    global _count
    _count = count
    if _backends.native is not None:
        _backends.native.set_num_threads(count)


def _initial() -> int:
    """The number of threads until one is set. Raises ValueError for a DCAM_NUM_THREADS that is no count."""
    text = os.environ.get(VARIABLE)
    if not text:
        return max(1, min(torch.get_num_threads(), DEFAULT_LIMIT, _container_cpus()))
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(LIMIT)) and 1 <= int(text) <= LIMIT):
        raise ValueError(f"dcam_fast: {VARIABLE} must be an integer from 1 to {LIMIT}, got {text!r}")
    return int(text)


def _container_cpus(folder: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs that the control group's quota allows, which torch does not look at; `LIMIT` where there is none."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # version 2, version 1
        files = [folder / name for name in names]
        if all(file.is_file() for file in files):
            quota, period = " ".join(file.read_text() for file in files).split()
            if quota not in ("max", "-1"):
                return math.ceil(int(quota) / int(period))
    return LIMIT


_count = 1
_use(_initial())
