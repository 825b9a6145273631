"""Turns a computation with a callback into a generator: it runs only while its next value is requested."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import TypeVar

import torch

T = TypeVar("T")


class _Closed(BaseException):
    """Raised inside the computation once its generator is closed."""


def stepwise(run: Callable[[Callable[[T], None]], T]) -> Generator[T, None, None]:
    """Yields each value that `run` passes to its callback, then the value that it returns.

    `run` has a separate thread, which works only while the next value is awaited, on the caller's current CUDA stream.
    The generator raises whatever `run` raises. Closing the generator raises inside `run` at its callback, and waits for
    the thread to end.

    >>> def count(callback):
    ...     callback(1)
    ...     return 2
    >>> list(stepwise(count))
    [1, 2]
    """
    values: list[T] = []
    errors: list[BaseException] = []
    requested, ready = threading.Semaphore(0), threading.Semaphore(0)
    closed = threading.Event()
    stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None

    def callback(value: T) -> None:
        values.append(value)
        ready.release()
        requested.acquire()
        if closed.is_set():
            raise _Closed

    def work() -> None:
        requested.acquire()
        try:
            with torch.cuda.stream(stream):  # type: ignore[arg-type]
                values.append(run(callback))
        except _Closed:
            pass
        except BaseException as error:  # raised again in the caller's thread
            errors.append(error)
        finally:
            done.set()
            ready.release()

    done = threading.Event()
    thread = threading.Thread(target=work, daemon=True)  # a forgotten generator must not keep the process alive
    thread.start()
    try:
        while not done.is_set():
            requested.release()
            ready.acquire()
            if errors:
                raise errors.pop()
            yield values.pop()
    finally:
        closed.set()
        requested.release()
        thread.join()
