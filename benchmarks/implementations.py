"""The implementations: the official algorithm as usually written, then all available backends of the ops."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dcam_fast import ops
from dcam_fast.benchmarks.baselines import (
    array_filter,
    loop_filter,
    numba_filter,
    overlay_pillow,
    overlay_torch,
    pool_array,
    pool_torch,
    refine_released,
    refine_torch,
)
from dcam_fast.benchmarks.op_cases import ALPHA, IMAGE_SIDE, REPETITION, BenchmarkCase, Inputs, op_arguments
from dcam_fast.ops import reference
from dcam_fast.ops._backends import BACKENDS

Call = Callable[[], Tensor]
Build = Callable[[BenchmarkCase, Inputs], Call]
Origin = Literal["baseline", "dcam_fast", "custom"]
POOLINGS = ("elementwise", "pooled")  # supported by the baselines


class UnavailableError(Exception):
    """An implementation cannot run a case here; the message says why."""


@dataclass(frozen=True)
class Implementation:
    """One implementation of the cases.

    Attributes:
        name: in tables and result files.
        build: maps a case and its inputs to the call that is timed, or raises `UnavailableError`.
        origin: `"dcam_fast"` belongs to this package, `"custom"` to the user.
    """

    name: str
    build: Build
    origin: Origin = "baseline"


def _numpy(kind: str) -> Build:
    def build(case: BenchmarkCase, inputs: Inputs) -> Call:
        rank_filter = {"loop": lambda: loop_filter, "array": lambda: array_filter, "numba": numba_filter}[kind]()

        def refine(maps: np.ndarray) -> Tensor:
            return _stacked([refine_released(values, REPETITION, rank_filter) for values in maps])

        if case.op == "refine":
            maps = inputs[0].double().numpy()
            return lambda: refine(maps)
        A, G = (tensor.float().numpy() for tensor in inputs)  # NumPy has no bfloat16
        if case.op == "pool":
            return lambda: torch.from_numpy(pool_array(A, G, case.aggregation))
        return lambda: refine(pool_array(A, G, case.aggregation).astype(np.float64).reshape(-1, *case.grid))

    return build


def _stacked(maps: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(maps, dtype=np.float32, casting="same_kind"))


def _pillow(case: BenchmarkCase, inputs: Inputs) -> Call:
    maps, image, _, table = (tensor.numpy() for tensor in inputs)
    return lambda: torch.from_numpy(np.stack([overlay_pillow(values, image, table, ALPHA) for values in maps]))


def _eager(case: BenchmarkCase) -> Callable[..., Tensor]:
    """The op in plain PyTorch; for profiles other than `released`, the reference of this package."""
    if case.op == "overlay":
        return lambda maps, image, boxes, table: overlay_torch(maps, image, table, ALPHA)

    def refine(maps: Tensor, *guide: Tensor) -> Tensor:
        if case.variant.endswith("released"):
            return refine_torch(maps, REPETITION)
        config = case.config
        if case.op == "guided_filter":
            return reference.guided_filter(maps, guide[0], config.guide_radius, config.guide_epsilon)
        guide_or_none = guide[0] if guide else None
        return reference.refine(
            maps, config, repetition=REPETITION, image_side=IMAGE_SIDE, guide=guide_or_none, check=False
        )

    def pool(A: Tensor, G: Tensor) -> Tensor:
        if case.aggregation in POOLINGS:
            return pool_torch(A, G, case.aggregation)
        return reference.pool(A, G, None, case.aggregation, check=False)

    if case.op in ("refine", "guided_filter"):
        return refine
    return pool if case.op == "pool" else lambda A, G, *guide: refine(pool(A, G).view(-1, *case.grid), *guide)


def _reads_results(case: BenchmarkCase) -> bool:
    """Whether `_eager` is the reference where that decides on the host, so that no CUDA graph can capture it."""
    if case.op in ("pool", "diffusion_cam") and case.aggregation not in POOLINGS:
        return True
    return case.op in ("refine", "diffusion_cam") and not case.variant.endswith("released")


def _eager_call(case: BenchmarkCase, inputs: Inputs) -> Call:
    run = _eager(case)
    return lambda: run(*inputs)


def _compiled_call(case: BenchmarkCase, inputs: Inputs) -> Call:
    torch._dynamo.reset()  # type: ignore[no-untyped-call]
    run = torch.compile(_eager(case), dynamic=False)
    return lambda: run(*inputs)


def captured(call: Call, device: torch.device) -> Call:
    """The call, whose tensors are on `device`, as a CUDA graph.

    Raises:
        UnavailableError: It cannot be captured.
    """
    # torch's stream for captures is of the device that was the first: on another a graph would record nothing
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    graph = torch.cuda.CUDAGraph()
    try:
        # a capture that fails leaves its stream the current one, and this gives the former back
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
            with torch.cuda.graph(graph, stream=side):
                result = call()
        torch.cuda.current_stream(device).wait_stream(side)
    except RuntimeError as error:
        raise UnavailableError(f"cannot be captured in a graph: {str(error).splitlines()[0]}") from error

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def _backend_call(backend: str) -> Build:
    def build(case: BenchmarkCase, inputs: Inputs) -> Call:
        tensors, settings = op_arguments(case, inputs)
        options: dict[str, Any] = {"backend": backend}
        if case.op != "guided_filter":
            options["check"] = inputs[0].is_cpu and case.op != "overlay"
        if case.op == "diffusion_cam" and case.guided:
            return _guided_call(tensors, settings, options)
        if case.op == "diffusion_cam":
            del settings["guide"]
        return functools.partial(getattr(ops, case.op), *tensors, **settings, **options)

    return build


def _guided_call(tensors: Inputs, settings: dict[str, Any], options: dict[str, Any]) -> Call:
    """`diffusion_cam` with a guide, which the op does not take: two ops."""
    grid, aggregation = settings.pop("grid"), settings.pop("aggregation")
    A, G = tensors

    def call() -> Tensor:
        raw = ops.pool(A, G, None, aggregation, **options)
        return ops.refine(raw.view(-1, *grid), **settings, **options)

    return call


def _array_entry(case: BenchmarkCase, inputs: Inputs) -> Call:
    (values,) = inputs[0].numpy()
    return lambda: torch.from_numpy(
        ops.refine_array(values, case.config, repetition=REPETITION, image_side=IMAGE_SIDE)[None]
    )


def graph_of(build: Build) -> Build:
    """The calls of `build`, each captured as a CUDA graph."""
    return lambda case, inputs: captured(build(case, inputs), inputs[0].device)


def available_backends(device: str) -> list[str]:
    """The backends available on a device, without the reference, which is the eager baseline."""
    kind = torch.device(device).type
    return [
        name
        for name, backend in BACKENDS.items()
        if name != "reference" and backend.serves(kind) and backend.unavailable_reason() is None
    ]


def implementations(case: BenchmarkCase, device: str, backends: list[str], *, compiled: bool) -> list[Implementation]:
    """The implementations of a case. NumPy has the profile `released` and two poolings, on the CPU."""
    found = []
    on_cpu = device == "cpu"
    if on_cpu and (case.op == "pool" or case.variant.endswith("released")):
        if case.targets == 1 and case.op != "pool":  # T maps take T times as long
            found.append(Implementation("official algorithm, Python loop", _numpy("loop")))
        if case.op != "pool" or case.aggregation in POOLINGS:
            found.append(Implementation("vectorized NumPy", _numpy("array")))
        if case.op != "pool" and importlib.util.find_spec("numba"):
            found.append(Implementation("numba", _numpy("numba")))
    if on_cpu and case.op == "overlay":
        found.append(Implementation("Pillow and NumPy", _pillow))
    found.append(Implementation("PyTorch eager", _eager_call))
    if compiled:
        found.append(Implementation("torch.compile", _compiled_call))
    if not on_cpu and not _reads_results(case):
        found.append(Implementation("PyTorch eager, CUDA graph", graph_of(_eager_call)))
    if case.op == "refine" and case.targets == 1 and not case.guided and "cpu" in backends:
        found.append(Implementation("dcam_fast cpu, NumPy entry", _array_entry, origin="dcam_fast"))
    for backend in backends:
        found.append(Implementation(f"dcam_fast {backend}", _backend_call(backend), origin="dcam_fast"))
        if not on_cpu:
            found.append(
                Implementation(f"dcam_fast {backend}, CUDA graph", graph_of(_backend_call(backend)), origin="dcam_fast")
            )
    return found
