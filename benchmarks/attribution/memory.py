"""Peak memory of a computation, by counting the storages that torch allocates and frees."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class PeakMemory(TorchDispatchMode):
    """Counts tensors that are allocated while the context is open, on any device.

    Unlike resident memory the count is the same in every run. Memory that kernels allocate internally is not counted.

    Attributes:
        live: bytes of live tensors now.
        peak: maximum of `live`.

    >>> with PeakMemory() as memory:
    ...     _ = torch.zeros(256)
    >>> memory.peak
    1024
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._ours: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = {storage._cdata for storage in _storages((args, kwargs))}
        out = func(*args, **kwargs)
        for storage in _storages(out):
            key = storage._cdata
            if key not in given and key not in self._ours:
                self._ours.add(key)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._free, key, storage.nbytes())
        return out

    def _free(self, key: int, size: int) -> None:
        self._ours.discard(key)
        self.live -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_iter(tree) if isinstance(leaf, Tensor)]
