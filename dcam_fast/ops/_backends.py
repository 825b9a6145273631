"""The backends of the ops: which of them this machine has, and the choice between them.

Every backend of an op is a registered operator with the same schema and fake, so that `torch.compile` does not break
the graph. A new backend is a namespace (or a dispatch key of `dcam_fast`) and a line in `BACKENDS`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcam_fast.config import RELEASED
from dcam_fast.ops._arguments import check_array, check_choice, check_tensor


def _load_native() -> tuple[ModuleType | None, str | None]:
    try:
        module = importlib.import_module("dcam_fast._C")
    except ModuleNotFoundError:
        return None, "install dcam_fast again where a C++ compiler and Python.h are"
    except ImportError as error:
        return None, str(error)
    if getattr(module, "refine_settings", None) != tuple(RELEASED.numbers()):
        return None, "it was built from other sources: install dcam_fast again"
    return module, None


native, native_error = _load_native()


@dataclass(frozen=True)
class Backend:
    """One implementation of the ops.

    Attributes:
        namespace: of its operators in `torch.ops`.
        devices: the device types it serves; None: any.
        unavailable_reason: returns why it cannot run here, or None if it can.
    """

    namespace: str
    devices: tuple[str, ...] | None
    unavailable_reason: Callable[[], str | None]

    def serves(self, device: str) -> bool:
        return self.devices is None or device in self.devices


def _native_unavailable_reason() -> str | None:
    return f"the extension dcam_fast._C is not available ({native_error})" if native is None else None


@functools.cache
def _find_cuda_problem() -> str | None:
    if native is None:
        return _native_unavailable_reason()
    if not native.cuda_archs:
        return "the extension was built without CUDA kernels (no nvcc was found, or DCAM_CUDA=0)"
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no NVIDIA GPU"
    if (problem := native.cuda_unavailable_reason()) is not None:
        return f"its kernels, for compute capability 8.0 and later, cannot run on this GPU: {problem}"
    return None


def _cuda_unavailable_reason() -> str | None:
    return _find_cuda_problem()


# Triton's interpreter runs the same kernels on the CPU, very slowly: for tests.
_INTERPRETED: Final = os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _find_triton_problem() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if importlib.util.find_spec("dcam_fast.kernels") is None:
        return "dcam_fast.kernels is not installed (pip install --no-build-isolation -e .)"
    if not (_INTERPRETED or torch.cuda.is_available() or torch.xpu.is_available()):
        return "torch finds no GPU"
    return None


def _triton_unavailable_reason() -> str | None:
    return _find_triton_problem()


# As torch.compiler.assume_constant_result does, without importing dynamo.
_triton_unavailable_reason._dynamo_marked_constant = True  # type: ignore[attr-defined]
_cuda_unavailable_reason._dynamo_marked_constant = True  # type: ignore[attr-defined]


# In the order of preference, among those that serve the device of a tensor.
BACKENDS: Final = {
    "cpu": Backend("dcam_fast", ("cpu",), _native_unavailable_reason),
    "cuda": Backend("dcam_fast", ("cuda",), _cuda_unavailable_reason),
    # torch calls AMD's GPUs "cuda" too
    "triton": Backend(
        "dcam_fast_triton", ("cuda", "xpu", *(["cpu"] if _INTERPRETED else [])), _triton_unavailable_reason
    ),
    "reference": Backend("dcam_fast_reference", None, lambda: None),
}
FORCED: Final = os.environ.get("DCAM_BACKEND") or None
# The kernels that the NumPy functions call without torch's dispatcher; None: they call the ops.
array_kernels: Final = native if FORCED in (None, "cpu") else None
_TAGS: Final = (torch.Tag.pt2_compliant_tag,)


@functools.cache
def _notice(device: str) -> None:
    reason = _native_unavailable_reason()
    problem = f"no kernels for device {device!r} here" if reason is None else reason
    warnings.warn(
        f"dcam_fast: {problem}; the ops run on the slow reference, in plain PyTorch", RuntimeWarning, stacklevel=4
    )


def others(backend: str, device: str) -> str:
    """The other backends that can serve a device, for messages: "cuda or reference"."""
    return " or ".join(
        name
        for name, other in BACKENDS.items()
        if name != backend and other.serves(device) and other.unavailable_reason() is None
    )


def _on_first_call(module: str, name: str) -> Callable[..., Any]:
    """The function `name` of dcam_fast.kernels.`module`, imported with Triton at the first call."""

    @functools.cache
    def function() -> Callable[..., Any]:
        return getattr(importlib.import_module(f"dcam_fast.kernels.{module}"), name)

    return lambda *args: function()(*args)


@functools.cache
def _fragment(namespace: str) -> torch.library.Library:
    return torch.library.Library(namespace, "FRAGMENT")


def _checked(check: Callable[..., None], function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, preceded by `check` of its arguments, without autograd."""

    def call(*args: Any) -> Any:
        check(*args)
        with torch.no_grad():
            return function(*args)

    return call


def _filling(function: Callable[..., Any]) -> Callable[..., None]:
    """An operator that copies the results of `function` into its first arguments."""

    def call(*args: Any) -> None:
        for buffer, result in zip(args, function(*args), strict=False):
            buffer.copy_(result)

    return call


class Op:
    """One op: the same schema, fake and semantics on every backend.

    Operators take positional arguments in the order of the schema. None of them has gradients.

    Args:
        name: of the operators and, with `triton`, of the function there.
        schema: as `torch.library.define` takes it. Without a result (`-> ()`) the op writes into its first arguments.
        reference: computes the result in plain PyTorch from the operator's arguments, or for an op without a result
            the tuple of tensors to copy into its first arguments.
        check: raises ValueError or TypeError for arguments that would read or write outside of memory. The extension
            has its own checks (csrc/arguments.h).
        fake: returns an empty tensor like the result; None for an op without one.
        triton: module of `dcam_fast.kernels` with a function `name`; None: Triton does not have the op.
    """

    def __init__(
        self,
        name: str,
        schema: str,
        *,
        reference: Callable[..., Any],
        check: Callable[..., None],
        fake: Callable[..., Tensor] | None = None,
        triton: str | None = None,
    ) -> None:
        self.name = name
        self._overloads: dict[str, torch._ops.OpOverload] = {}
        backends = [backend for backend in BACKENDS if backend != "triton" or triton is not None]
        for namespace in dict.fromkeys(BACKENDS[backend].namespace for backend in backends):
            torch.library.define(f"{namespace}::{name}", schema, tags=_TAGS)
            torch.library.register_fake(f"{namespace}::{name}", fake or (lambda *_: None))
            # otherwise autograd marks results as requiring gradients if arguments do
            _fragment(namespace).impl(name, torch.library.fallthrough_kernel, "Autograd")
        checked = {"reference": _filling(reference) if fake is None else reference}
        if triton is not None:
            checked["triton"] = _on_first_call(triton, name)
        for backend, function in checked.items():
            qualified = f"{BACKENDS[backend].namespace}::{name}"
            torch.library.impl(qualified, "CompositeExplicitAutograd", _checked(check, function))
        for backend in backends:
            self._overloads[backend] = getattr(getattr(torch.ops, BACKENDS[backend].namespace), name).default
        self._cpu = None if native is None or FORCED else self._overloads["cpu"]

    def overload(self, like: Tensor, backend: str | None, caller: str = "") -> torch._ops.OpOverload:
        """The operator of `backend`, else of DCAM_BACKEND, else of the first backend that serves `like.device`.

        Raises:
            ValueError: there is no such backend.
            RuntimeError: the backend cannot run here.
        """
        if backend is None and self._cpu is not None and like.is_cpu:
            return self._cpu
        device = like.device.type
        usable = [
            name
            for name in self._overloads
            if BACKENDS[name].serves(device) and BACKENDS[name].unavailable_reason() is None
        ]
        requested = FORCED if backend is None else backend
        if requested is None:
            if usable[0] == "reference" and not torch.compiler.is_compiling():
                _notice(device)
            return self._overloads[usable[0]]
        caller = caller or self.name
        check_choice(caller, "backend", requested, tuple(BACKENDS))
        if requested not in usable:
            reason = BACKENDS[requested].unavailable_reason()
            if reason is None and requested not in self._overloads:
                reason = "it does not have this op"
            if reason is None:
                reason = (
                    f"it serves {' and '.join(BACKENDS[requested].devices or ())} tensors, and these are on {device}"
                )
            raise RuntimeError(
                f"{caller}: backend must be one that can run here, got {requested!r}: {reason}; "
                f"{' or '.join(usable)} can"
            )
        return self._overloads[requested]


def plain(tensor: Tensor) -> Tensor:
    """The tensor without its autograd history: the ops have no gradients."""
    return tensor.detach() if tensor.requires_grad else tensor


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Address of the first byte of a tensor, and the one past its last."""
    begin = tensor.data_ptr()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return begin, begin + (last + 1) * tensor.element_size()


def check_apart(caller: str, name: str, written: Tensor, /, **others: Tensor | Sequence[Tensor] | None) -> None:
    """Raise if the memory of an output overlaps that of another argument."""
    for other_name, other in others.items():
        for tensor in [other] if isinstance(other, Tensor) else other or ():
            if written.numel() == 0 or tensor.numel() == 0 or written.device != tensor.device:
                continue
            (begin, end), (other_begin, other_end) = _extent(written), _extent(tensor)
            if begin < other_end and other_begin < end:
                raise ValueError(f"{caller}: {name} must not overlap {other_name}, got memory of both")


def float_like(tensor: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """An empty tensor of the dtype of results: float64 like a float64 `tensor`, else float32."""
    return tensor.new_empty(tensor.shape if shape is None else shape, dtype=result_dtype(tensor))


def result_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype is torch.float64 else torch.float32


def check_map(caller: str, map: NDArray[np.float32]) -> Tensor:
    """The argument of a NumPy function as maps [1, h, w], for when there are no `array_kernels`."""
    check_array(caller, "map", map)
    if map.dtype != np.float32 or map.ndim != 2 or map.size == 0:
        raise ValueError(f"{caller}: map must be float32 [h, w] with h, w > 0, got {map.dtype} {map.shape}")
    return torch.from_numpy(np.ascontiguousarray(map))[None]


def check_maps(caller: str, maps: Tensor) -> None:
    """Raise for anything but maps [T, h, w]."""
    check_tensor(caller, "maps", maps)
    if maps.dim() != 3 or maps.shape[1] == 0 or maps.shape[2] == 0:
        raise ValueError(f"{caller}: maps must be [T, h, w] with h, w > 0, got {list(maps.shape)}")


def check_float(caller: str, name: str, tensor: Tensor, overload: torch._ops.OpOverload) -> None:
    """Raise for dtypes that the chosen backend does not support."""
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    if tensor.dtype in dtypes or (tensor.dtype is torch.float64 and overload.namespace == "dcam_fast_reference"):
        return
    raise TypeError(
        f"{caller}: {name} must be float32, bfloat16 or float16 (float64 too with backend='reference'), "
        f"got {str(tensor.dtype).removeprefix('torch.')}"
    )
