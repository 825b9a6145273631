"""What passes may use of the machine (memory, a compiler, deterministic algorithms), and the context they run in."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import torch
from torch import Tensor

from dcam_fast.attribution.threads import threads_of
from dcam_fast.checks import check_count, check_switch
from dcam_fast.models.adapter import Adapter
from dcam_fast.torch_modes import ProcessWide, own_modes

P = ParamSpec("P")
R = TypeVar("R")

SHARE: Final = 0.5  # of the free memory that a pass may keep where `max_memory` is None


@dataclass(frozen=True)
class Resources:
    """What passes may use of the machine.

    Attributes:
        max_memory: bytes of hidden states that a pass may keep for its backward pass. The working memory of one layer
            comes on top. None: half of the free memory of the device when the pass starts.
        compile: whether the differentiated layers run through `torch.compile`. The first pass, and the first of each
            new shape, is slow.
        deterministic: whether torch uses deterministic algorithms while a pass runs, in the whole process.

    Raises:
        ValueError: if `max_memory` is not positive.
        TypeError: if an argument has the wrong type.

    Example:
        >>> from dcam_fast import Explainer
        >>> Explainer.from_pretrained("tiny", max_memory=2**30).resources
        Resources(max_memory=1073741824, compile=False, deterministic=False)
    """

    max_memory: int | None = None
    compile: bool = False
    deterministic: bool = False

    def __post_init__(self) -> None:
        check_count("Resources", "max_memory", self.max_memory)
        check_switch("Resources", "compile", self.compile)
        check_switch("Resources", "deterministic", self.deterministic)


DEFAULTS: Final = Resources()
_current: ContextVar[Resources] = ContextVar("resources", default=DEFAULTS)


@contextlib.contextmanager
def computing(adapter: Adapter[Any], resources: Resources = DEFAULTS) -> Iterator[None]:
    """Passes of `adapter` inside run with `resources`, in the package's own torch modes (`own_modes`), on the number of
    torch's threads that suits the model (`threads_of`) and on a frozen model (`Adapter.frozen`). Other Python threads
    are not affected, except that they see the model frozen."""
    token = _current.set(resources)
    deterministic = _deterministic((True, False)) if resources.deterministic else contextlib.nullcontext()
    try:
        with own_modes(), threads_of(adapter), deterministic, adapter.frozen():
            yield
    finally:
        _current.reset(token)


def current() -> Resources:
    """What passes of this thread run with."""
    return _current.get()


def _deterministic_before() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


_deterministic = ProcessWide(_deterministic_before, _set_deterministic)


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, compiled where the resources of this thread say so."""
    return _compiled(function) if current().compile else function  # type: ignore[return-value, arg-type]


@functools.cache
def _compiled(function: Callable[..., object]) -> Callable[..., object]:
    return torch.compile(function)  # type: ignore[no-any-return]


def free_memory(device: torch.device) -> int:
    """Bytes available on `device`."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("Resources: max_memory must be a number of bytes where free memory is unknown, got None")


def allowance(device: torch.device) -> int:
    """Bytes that a pass on `device` may keep for its backward pass."""
    limit = current().max_memory
    return int(SHARE * free_memory(device)) if limit is None else limit


class AllowanceError(Exception):
    """A pass has used up its allowance of memory."""


class Meter(torch.autograd.graph.saved_tensors_hooks):
    """Counts what autograd keeps for the backward pass. Over `limit` bytes it raises `AllowanceError`.

    Weights and tables take no gradient and are not counted.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._counted: set[int] = set()
        super().__init__(self._keep, _same)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if tensor.requires_grad and storage.data_ptr() not in self._counted:
            self._counted.add(storage.data_ptr())
            self.bytes += storage.nbytes()
            if self.bytes > self.limit:
                raise AllowanceError
        return tensor.detach()  # the tensor itself would keep its graph alive


def _same(tensor: Tensor) -> Tensor:
    return tensor
