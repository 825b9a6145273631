"""torch's threads while a pass runs.

A small model's operations take microseconds, and torch's threads meet after each. Beside other busy processes such a
meeting waits for a time slice, so that more threads make a pass many times slower; alone on a machine they make it a
third faster. Small models therefore run on the calling thread. That is fixed, and not chosen by load, because matrix
products round differently with another number of threads: answers and maps would depend on what else the machine does.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from dcam_fast.models.adapter import Adapter

R = TypeVar("R")
_lock = threading.Lock()


@contextlib.contextmanager
def threads_of(adapter: Adapter[Any]) -> Iterator[None]:
    """Passes of ``adapter`` inside run on as many threads of torch as suit it: one if it is small and on a CPU, else
    the caller's. Other Python threads are not affected, and the caller's count is restored afterwards."""
    before = torch.get_num_threads()
    if before == 1 or not adapter.small or adapter.device.type != "cpu":
        yield
        return
    _set_own(1)
    try:
        yield
    finally:
        _set_own(before)


def _set_own(count: int) -> None:
    """`torch.set_num_threads` for the calling thread alone.

    torch keeps a count for every thread that has used it, and one that later threads begin with. It sets both at once,
    so the second is set back, which takes a thread that is not the calling one.
    """
    with _lock:
        later = _on_new_thread(torch.get_num_threads)
        torch.set_num_threads(count)
        if later != count:
            _on_new_thread(lambda: torch.set_num_threads(later))


def _on_new_thread(function: Callable[[], R]) -> R:
    results: list[R] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]
