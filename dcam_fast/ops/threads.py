"""The number of threads of the ops on CPU tensors. They are not torch's threads: see csrc/dcam/cpu/threads.h."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

import torch

from dcam_fast.ops import _backends

VARIABLE: Final = "DCAM_NUM_THREADS"
LIMIT: Final = 1024
DEFAULT_LIMIT: Final = 16  # the ops are limited by memory bandwidth, which fewer threads saturate


def set_num_threads(count: int) -> None:
    """Set the number of threads that an op on CPU tensors may use, including the calling thread, in this process.

    Results are bitwise identical for every count. Work of less than 0.2 ms stays on the calling thread. Threads of
    torch and other backends are not affected.

    >>> before = get_num_threads()
    >>> set_num_threads(2)
    >>> get_num_threads()
    2
    >>> set_num_threads(before)

    Raises:
        TypeError: `count` is not an int.
        ValueError: `count` is not from 1 to 1024.
    """
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"set_num_threads: count must be an int from 1 to {LIMIT}, got {count!r}")
    if not 1 <= count <= LIMIT:
        raise ValueError(f"set_num_threads: count must be an int from 1 to {LIMIT}, got {count}")
    _use(count)


def get_num_threads() -> int:
    """The number of threads that an op on CPU tensors may use.

    It is the last value of `set_num_threads`, else of the environment variable DCAM_NUM_THREADS, else torch's number of
    threads at import, at most 16 and at most the CPUs of the container.
    """
    return _count


def _use(count: int) -> None:
    global _count
    _count = count
    if _backends.native is not None:
        _backends.native.set_num_threads(count)


def _initial() -> int:
    """The number of threads at import. Raises ValueError for a wrong DCAM_NUM_THREADS."""
    text = os.environ.get(VARIABLE)
    if not text:
        return max(1, min(torch.get_num_threads(), DEFAULT_LIMIT, _container_cpus()))
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(LIMIT)) and 1 <= int(text) <= LIMIT):
        raise ValueError(f"dcam_fast: {VARIABLE} must be an integer from 1 to {LIMIT}, got {text!r}")
    return int(text)


def _container_cpus(folder: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs that the control group's quota allows, which torch ignores; `LIMIT` if there is no quota."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # version 2, version 1
        files = [folder / name for name in names]
        if all(file.is_file() for file in files):
            quota, period = " ".join(file.read_text() for file in files).split()
            if quota not in ("max", "-1"):
                return math.ceil(int(quota) / int(period))
    return LIMIT


_count = 1
_use(_initial())
