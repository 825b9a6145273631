"""torch's modes while this package computes, independent of those of the caller.

torch has modes that change the result of an operation. Inference mode, autograd, autocast and the default device are
set for a thread, the default dtype and deterministic algorithms for the process. The code of this package assumes the
modes of a new process: `own_modes` sets them and restores the caller's.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch

V = TypeVar("V")


class ProcessWide(Generic[V]):
    """A setting of the whole process, changed while any thread needs it.

    The first thread that enters changes it, and the last that leaves restores it. Threads that overlap do not undo each
    other's change.

    Args:
        get: returns the value of the setting.
        set: sets it.
    """

    def __init__(self, get: Callable[[], V], set: Callable[[V], None]) -> None:
        self._get, self._set = get, set
        self._lock = threading.Lock()
        self._users = 0
        self._before: V

    @contextlib.contextmanager
    def __call__(self, value: V) -> Iterator[None]:
        with self._lock:
            if self._users == 0:
                self._before = self._get()
                self._set(value)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._set(self._before)


_default_dtype = ProcessWide(torch.get_default_dtype, torch.set_default_dtype)


@contextlib.contextmanager
def own_modes() -> Iterator[None]:
    """Set the modes of a new process: autograd, float32 and CPU as defaults, no inference mode, no autocast.

    It may be nested, and serves as a decorator, but not of generators: between their steps the modes must be the
    caller's. Modes that only observe (profilers, counters of operations) or concern speed (threads, matmul precision,
    deterministic algorithms) are not changed.

    >>> with torch.inference_mode(), own_modes():
    ...     torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    (True, False)
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_default_dtype(torch.float32))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield
