"""Deadlines and cancellation: a call is interrupted between the steps of its computation."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Protocol, TypeVar

from dcam_fast.checks import ABOVE_ZERO, check_number

V = TypeVar("V")
_now = time.monotonic


class Interrupted(Exception):  # noqa: N818 - no error of anyone
    """A call was interrupted before its result was ready. Model and torch are in the state they had before the call."""


class DeadlineExceeded(Interrupted, TimeoutError):  # noqa: N818
    """The call took longer than its timeout."""


class Cancelled(Interrupted):
    """The call's cancellation was set."""


class Cancellation(Protocol):
    """Whatever says that a call should stop, such as a `threading.Event`."""

    def is_set(self) -> bool:
        """Whether the call should stop. Called often, and from several threads."""


class interruptible:  # noqa: N801 - it is used like contextlib's functions
    """A context in which `check_interruption` raises once a timeout is over or a cancellation is set.

    The timeout counts from here, not from entering. The context may be entered several times, one after the other, and
    nested in others. Entering it is a check, too.

    Args:
        timeout: seconds, or None.
        cancel: a cancellation, or None.
        caller: whose arguments these are, for messages.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for a timeout that is not positive.

    >>> import threading
    >>> cancel = threading.Event()
    >>> with interruptible(cancel=cancel):
    ...     check_interruption()
    ...     cancel.set()
    ...     check_interruption()
    Traceback (most recent call last):
    dcam_fast.interruption.Cancelled: explain: cancelled
    """

    def __init__(
        self, timeout: float | None = None, cancel: Cancellation | None = None, caller: str = "explain"
    ) -> None:
        if timeout is not None:
            need = "a positive number of seconds or None"
            timeout = check_number(caller, "timeout", timeout, need, minimum=ABOVE_ZERO)
        if cancel is not None and (isinstance(cancel, type) or not callable(getattr(cancel, "is_set", None))):
            raise TypeError(f"{caller}: cancel must be a threading.Event, have is_set() or be None, got {cancel!r}")
        self._timeout, self._cancel, self._caller = timeout, cancel, caller
        self._deadline = math.inf if timeout is None else _now() + timeout
        self._tokens: list[Token[tuple[interruptible, ...]]] = []

    def __enter__(self) -> None:
        self._tokens.append(_active.set((*_active.get(), self)))
        try:
            check_interruption()
        except BaseException:  # also what a cancellation of the caller's raises
            _active.reset(self._tokens.pop())
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _active.reset(self._tokens.pop())

    def check(self) -> None:
        """Raises `Cancelled` or `DeadlineExceeded` if the time has come."""
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled(f"{self._caller}: cancelled")
        if _now() >= self._deadline:
            raise DeadlineExceeded(f"{self._caller}: not finished within the timeout of {self._timeout:g} seconds")


_active: ContextVar[tuple[interruptible, ...]] = ContextVar("interruptible", default=())


def check_interruption() -> None:
    """Raises if a surrounding `interruptible` says so. Called between denoising steps, passes and chunks.

    Raises:
        DeadlineExceeded: after the timeout.
        Cancelled: after the cancellation.
    """
    for limits in _active.get():
        limits.check()


def checked(values: Iterable[V]) -> Iterator[V]:
    """The values, with `check_interruption` after each is computed.

    >>> list(checked([1, 2]))
    [1, 2]
    """
    for value in values:
        check_interruption()
        yield value
