"""What the passes may use of the machine: memory, a compiler, only algorithms that give the same bits twice."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from dcam_fast.checks import check_count, check_switch
from dcam_fast.modes import ProcessWide, own_modes

P = ParamSpec("P")
R = TypeVar("R")

SHARE = 0.5  # of the free memory that a pass may take unless told


@dataclass(frozen=True)
class Resources:
    """How passes run, whatever they compute.

    Attributes:
        max_memory: bytes of hidden states that a pass may keep for its backward pass; the working memory of one layer
            comes on top. None: half of what is free on the device when the pass starts.
        compile: runs the differentiated layers through `torch.compile`: slow at first and for each new shape.
        deterministic: switches torch to deterministic algorithms while a pass runs, in the whole process.
    """

    max_memory: int | None = None
    compile: bool = False
    deterministic: bool = False

    def __post_init__(self) -> None:
        check_count("Resources", "max_memory", self.max_memory)
        check_switch("Resources", "compile", self.compile)
        check_switch("Resources", "deterministic", self.deterministic)


_current: ContextVar[Resources | None] = ContextVar("resources", default=None)


def current() -> Resources:
    """What passes of this thread run with."""
    return _current.get() or Resources()


@contextlib.contextmanager
def using(resources: Resources) -> Iterator[None]:
    """Passes inside run with ``resources`` and `own_modes`; other threads are not touched."""
    token = _current.set(resources)
    try:
        with own_modes(), _deterministic((True, False)) if resources.deterministic else contextlib.nullcontext():
            yield
    finally:
        _current.reset(token)


def _deterministic_before() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


_deterministic = ProcessWide(_deterministic_before, _set_deterministic)


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, through the compiler if this thread's resources say so."""
    return _compiled(function) if current().compile else function  # type: ignore[return-value, arg-type]


@functools.cache
def _compiled(function: Callable[..., object]) -> Callable[..., object]:
    return torch.compile(function)  # type: ignore[no-any-return]


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on ``device``."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("max_memory: must be given where the system does not say what is free, got None")


def allowance(device: torch.device) -> int:
    """Bytes that a pass on ``device`` may keep."""
    limit = current().max_memory
    return int(SHARE * free_memory(device)) if limit is None else limit


class AllowanceError(Exception):
    """A pass came to the end of its memory."""


class Meter(torch.autograd.graph.saved_tensors_hooks):
    """Counts what autograd keeps for the backward pass; over ``limit`` bytes it raises `AllowanceError`.

    What was there before the pass (weights, tables) takes no gradient and is not counted.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._seen: set[int] = set()
        super().__init__(self._keep, _same)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if tensor.requires_grad and storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
            if self.bytes > self.limit:
                raise AllowanceError
        return tensor.detach()  # the tensor itself would keep its own graph alive


def _same(tensor: Tensor) -> Tensor:
    return tensor
