"""A computation that cannot be left half-way, made to go on only when more of it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import TypeVar

import torch

T = TypeVar("T")


class _Left(BaseException):
    """Raised inside a computation that nobody waits for any more."""


def stepwise(run: Callable[[Callable[[T], None]], T]) -> Generator[T, None, None]:
    """What ``run`` hands to its argument, one by one, and at last what it returns.

    ``run`` has a thread of its own, which works only while the next value is waited for, on the current CUDA stream of
    whoever waits for the first. What it raises, the iterator raises. Closing the iterator raises inside ``run`` where
    it hands over, and waits for its end.
    """
    values: list[T] = []
    errors: list[BaseException] = []
    asked, handed = threading.Semaphore(0), threading.Semaphore(0)
    left = threading.Event()
    stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None

    def hand(value: T) -> None:
        values.append(value)
        handed.release()
        asked.acquire()
        if left.is_set():
            raise _Left

    def work() -> None:
        asked.acquire()
        try:
            with torch.cuda.stream(stream):  # type: ignore[arg-type]
                values.append(run(hand))
        except _Left:
            pass
        except BaseException as error:  # whoever waits is to get it
            errors.append(error)
        finally:
            done.set()
            handed.release()

    done = threading.Event()
    thread = threading.Thread(target=work, daemon=True)  # an iterator that was forgotten must not keep a process alive
    thread.start()
    try:
        while not done.is_set():
            asked.release()
            handed.acquire()
            if errors:
                raise errors.pop()
            yield values.pop()
    finally:
        left.set()
        asked.release()
        thread.join()
