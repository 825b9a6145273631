"""Threads while a pass runs: torch's, and ours.

An operation of a small model takes microseconds, and torch's threads synchronize after each. Beside other busy
processes, synchronization waits for a time slice, and a pass becomes many times slower. Small models therefore run each
operation on one thread. The number does not depend on the load, because matrix products round differently with another
number of threads, and answers and maps would change.

Independent parts of a pass, such as the canvases of its targets, are run by `run_all` on as many Python threads as
torch had. They synchronize once, at the end, and their number changes no result.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from dcam_fast.interruption import check_interruption
from dcam_fast.models.adapter import Adapter

R = TypeVar("R")
_lock = threading.Lock()
_workers: contextvars.ContextVar[int] = contextvars.ContextVar("workers", default=1)


@contextlib.contextmanager
def threads_of(adapter: Adapter[Any]) -> Iterator[None]:
    """Passes of `adapter` inside run on one of torch's threads if the model is small and on a CPU, else on the caller's
    number. Other Python threads are not affected. The caller's number is restored afterwards."""
    before = torch.get_num_threads()
    if before == 1 or not adapter.small or adapter.device.type != "cpu":
        yield
        return
    _set_own(1)
    token = _workers.set(before)
    try:
        yield
    finally:
        _workers.reset(token)
        _set_own(before)


def workers() -> int:
    """How many threads `run_all` uses here, the calling one included: those that `threads_of` took from torch."""
    return _workers.get()


def run_all(tasks: Iterable[Callable[[], R]]) -> list[R]:
    """The results of independent tasks, in their order.

    The calling thread takes tasks until none is left, and so do the others; it waits only for those that have begun.
    Tasks must not depend on the thread that runs them. The first error is raised once all that began have ended.
    """
    tasks = list(tasks)
    results: dict[int, R] = {}
    errors: list[BaseException] = []
    left = iter(enumerate(tasks))
    lock = threading.Lock()

    def take() -> None:
        while not errors:
            with lock:
                index, task = next(left, (None, None))
            if index is None or task is None:
                return
            try:
                check_interruption()
                results[index] = task()
            except BaseException as error:  # raised below, by the calling thread
                errors.append(error)

    def help_out() -> None:
        _set_own(1)
        take()

    count = min(workers(), len(tasks)) - 1
    helpers = [threading.Thread(target=contextvars.copy_context().run, args=(help_out,)) for _ in range(count)]
    for helper in helpers:
        helper.start()
    take()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]
    return [results[index] for index in range(len(tasks))]


def new_pool(count: int) -> ThreadPoolExecutor:
    """A pool of `count` threads that each run torch's operations on one thread, like those of `run_all`."""
    return ThreadPoolExecutor(count, "dcam_fast", initializer=_set_own, initargs=(1,))


def _set_own(count: int) -> None:
    """`torch.set_num_threads` for the calling thread alone.

    torch keeps a count for each thread and one that new threads begin with, and sets both at once. The second is set
    back from a new thread.
    """
    torch.get_num_threads()  # a thread's first use of torch would set its count again
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
