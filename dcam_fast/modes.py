"""torch's modes while this package computes: its own, whatever the caller has set.

torch keeps modes that change what an operation computes. Inference mode, autograd, autocast and the default device
belong to a thread, the default dtype and deterministic algorithms to the whole process. Models and passes are written
for the modes of a fresh process: `own_modes` sets those, and restores the caller's.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch

V = TypeVar("V")


class ProcessWide(Generic[V]):
    """A setting that torch keeps once for the whole process, changed while any thread needs it.

    The first thread to come changes it and the last to go restores it, so threads that overlap do not undo each other.
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
    """The modes of a fresh process: autograd, float32 by default, on the CPU by default, neither inference mode nor
    autocast.

    May be nested. Also a decorator, but not of generators: between their steps the modes must be the caller's. Modes
    that only watch (profilers, counters of operations) and choices of speed (threads, matmul precision, deterministic
    algorithms) stay the caller's.
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
