"""CUDA graphs of `diffusion_cam` and `refine`: one for each shape, dtype, device and settings, with own buffers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from dcam_fast.config import UNGUIDED, RefineConfig
from dcam_fast.ops import _backends
from dcam_fast.ops.diffusion_cam import diffusion_cam_out, diffusion_cam_workspace
from dcam_fast.ops.pool import pool_out
from dcam_fast.ops.refine import check_ratios, refine

V = TypeVar("V")
_CAPTURING = threading.Lock()  # captures of one process share a stream


class LRU(Generic[V]):
    """The values of the `size` most recently used keys.

    >>> cache = LRU(1)
    >>> cache.get("key", lambda: 5)
    5
    >>> "key" in cache, len(cache)
    (True, 1)
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"LRU: size must be at least 1, got {size}")
        self.size = size
        self._values: OrderedDict[Hashable, V] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of `key`, made by `make` if it is missing. If `make` raises, the cache is unchanged."""
        if key not in self._values:
            self._values[key] = make()
            if len(self._values) > self.size:
                self._values.popitem(last=False)
        self._values.move_to_end(key)
        return self._values[key]

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values


def layout(tensor: Tensor | None) -> Hashable:
    """The properties of an input that a graph is captured for."""
    return None if tensor is None else (tuple(tensor.shape), tensor.dtype, str(tensor.device))


class Recording:
    """A captured call and its buffers."""

    def __init__(
        self, inputs: list[Tensor | None], grid: tuple[int, int], run: Callable[..., None], floats: int
    ) -> None:
        like = inputs[1]
        assert like is not None
        self.inputs = [None if tensor is None else tensor.contiguous().clone() for tensor in inputs]
        self.out = torch.empty(like.shape[0], *grid, device=like.device)
        self.flags = torch.empty(like.shape[0], dtype=torch.int32, device=like.device)
        self.workspace = torch.empty(floats, device=like.device)
        self.graph = torch.cuda.CUDAGraph()

        def call() -> None:
            run(self.out, self.flags, self.workspace, *self.inputs)

        # a call before the capture: the first launch loads the kernels, which a capture does not allow
        side = torch.cuda.Stream(like.device)
        side.wait_stream(torch.cuda.current_stream(like.device))
        with torch.cuda.stream(side):
            call()
        torch.cuda.current_stream(like.device).wait_stream(side)
        # GPU calls of other threads are not captured
        captured = torch.cuda.graph(self.graph, capture_error_mode="thread_local")
        with _CAPTURING, torch.cuda.device(like.device), captured:
            call()
        self.done = torch.cuda.Event()
        self.done.record(torch.cuda.current_stream(like.device))

    def replay(self, inputs: list[Tensor | None]) -> Tensor:
        """The maps of other inputs of the same layout, on the current stream."""
        stream = torch.cuda.current_stream(self.out.device)
        stream.wait_event(self.done)  # the buffers may be in use on another stream
        for buffer, tensor in zip(self.inputs, inputs, strict=True):
            if buffer is not None and tensor is not None:
                buffer.copy_(tensor, non_blocking=True)
        self.graph.replay()
        maps = self.out.clone()
        self.done.record(stream)
        return maps


class GraphCache:
    """CUDA graphs of the `size` most recent kinds of call. Threads take turns."""

    def __init__(self, size: int = 8) -> None:
        self._graphs: LRU[Recording] = LRU(size)
        self._known_kinds: LRU[bool] = LRU(64)
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[GraphCache], tuple[int]]:
        """A copy has no graphs: they belong to this process and its memory."""
        return GraphCache, (self._graphs.size,)

    @staticmethod
    def serves(maps: Tensor) -> bool:
        """Whether `maps` would run on the CUDA backend, whose calls can be captured."""
        return (
            maps.is_cuda
            and _backends.BACKENDS["cuda"].unavailable_reason() is None
            and _backends.FORCED in (None, "cuda")
        )

    def refine(
        self,
        maps: Tensor,
        config: RefineConfig,
        *,
        repetition: float = 0.0,
        image_side: float | None = None,
        guide: Tensor | None = None,
    ) -> Tensor:
        """`ops.refine` of maps [T, h, w], by a graph from the second call of a kind on. Most kinds occur once, and a
        capture takes as long as many calls.

        Args:
            maps: as in `ops.refine`.
            config: as in `ops.refine`.
            repetition: as in `ops.refine`, one number.
            image_side: as in `ops.refine`.
            guide: as in `ops.refine`.

        Raises:
            ValueError: as in `ops.refine`, also for NaN and Inf.
        """
        ratio, _ = check_ratios("refine", repetition, len(maps), maps.device)
        key = ("refine", layout(maps), layout(guide), config, image_side)
        options: dict[str, Any] = {"image_side": image_side, "backend": "cuda"}
        with self._lock:
            first = key not in self._known_kinds
            self._known_kinds.get(key, lambda: True)
        if first or not len(maps):
            return refine(maps, config, repetition=repetition, guide=guide, **options)

        def run(
            out: Tensor, _flags: Tensor, _workspace: Tensor, ratios: Tensor, raw: Tensor, colors: Tensor | None
        ) -> None:
            refine(raw, config, repetition=ratios, guide=colors, check=False, out=out, **options)

        finite = maps.isfinite().flatten(1).all(1)
        if not bool(finite.all()):
            index = int((~finite).nonzero()[0])
            raise ValueError(f"refine: maps must be finite, got NaN or Inf in map {index}")
        inputs = [torch.full((len(maps),), ratio, device=maps.device), maps, guide]
        with self._lock, torch.cuda.device(maps.device):
            grid = (maps.shape[1], maps.shape[2])
            return self._graphs.get(key, lambda: Recording(inputs, grid, run, 0)).replay(inputs)

    def diffusion_cam(
        self,
        activations: Tensor,
        gradients: Tensor,
        grid: tuple[int, int],
        cells: Tensor | None = None,
        aggregation: str = "layer_cam",
        config: RefineConfig = UNGUIDED,
        *,
        repetition: float = 0.0,
        image_side: float | None = None,
        guide: Tensor | None = None,
    ) -> Tensor:
        """`ops.diffusion_cam(check=False, backend="cuda")` of one layer, by a graph over copies of the inputs.

        Args:
            activations: as in `ops.pool`, one tensor.
            gradients: as in `ops.pool`, one tensor.
            grid: as in `ops.diffusion_cam`.
            cells: as in `ops.pool`.
            aggregation: as in `ops.pool`.
            config: as in `ops.refine`. If it needs a guide, the graph is of `ops.pool_out` and `ops.refine`.
            repetition: as in `ops.refine`, one number.
            image_side: as in `ops.refine`.
            guide: as in `ops.refine`.
        """
        inputs = [activations, gradients, cells, guide]
        key = (*map(layout, inputs), tuple(grid), aggregation, config, repetition, image_side)
        options: dict[str, Any] = {"repetition": repetition, "image_side": image_side, "backend": "cuda"}

        def run(
            out: Tensor,
            flags: Tensor,
            workspace: Tensor,
            A: Tensor,
            G: Tensor,
            rows: Tensor | None,
            colors: Tensor | None,
        ) -> None:
            if config.needs_guide:
                pool_out(out.view(len(out), -1), flags, A, G, rows, aggregation, backend="cuda")
                refine(out, config, guide=colors, check=False, out=out, **options)
            else:
                diffusion_cam_out(out, flags, workspace, A, G, rows, aggregation, config, **options)

        with self._lock, torch.cuda.device(gradients.device):
            floats = diffusion_cam_workspace(gradients, cells, aggregation)
            return self._graphs.get(key, lambda: Recording(inputs, grid, run, floats)).replay(inputs)
