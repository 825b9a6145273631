"""torch's threads while a pass runs.

An operation of a small model takes microseconds, and torch's threads synchronize after each. Beside other busy
processes, synchronization waits for a time slice, and a pass becomes many times slower. On an idle machine several
threads are a third faster. Small models therefore run on the calling thread. The number does not depend on the load,
because matrix products round differently with another number of threads, and answers and maps would change.
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
    """Passes of `adapter` inside run on one of torch's threads if the model is small and on a CPU, else on the caller's
    number. Other Python threads are not affected. The caller's number is restored afterwards."""
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

    torch keeps a count for each thread and one that new threads begin with, and sets both at once. The second is set
    back from a new thread.
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
