"""`pool`: gradient-weighted pooling of activations to raw maps (docs/method.md, section 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dcam_fast.ops import reference
from dcam_fast.ops._arguments import check_bool, check_choice, check_tensor, check_tensors
from dcam_fast.ops._backends import Op, check_apart, check_float, float_like, plain, result_dtype

AGGREGATIONS = reference.AGGREGATIONS
CODES = {name: code for code, name in enumerate(AGGREGATIONS)}


def map_shape(activations: Sequence[Tensor], gradients: Sequence[Tensor], cells: Tensor | None) -> tuple[int, int]:
    return gradients[0].shape[0], gradients[0].shape[1] if cells is None else cells.shape[0]


def _reference(
    activations: Sequence[Tensor], gradients: Sequence[Tensor], cells: Tensor | None, aggregation: int, check: bool
) -> Tensor:
    return reference.pool(activations, gradients, cells, AGGREGATIONS[aggregation], check=check)


def pool_flagged(
    activations: Sequence[Tensor], gradients: Sequence[Tensor], cells: Tensor | None, aggregation: int
) -> tuple[Tensor, Tensor]:
    """The reference of `pool_out`, from an operator's arguments: the values of `out` and `flags`."""
    return reference.pool_flagged(activations, gradients, cells, AGGREGATIONS[aggregation])


def check_code(caller: str, aggregation: int) -> str:
    """The name of an operator's aggregation."""
    if not 0 <= aggregation < len(AGGREGATIONS):
        raise ValueError(f"{caller}: aggregation must be from 0 to {len(AGGREGATIONS) - 1}, got {aggregation}")
    return AGGREGATIONS[aggregation]


def _check(
    activations: Sequence[Tensor], gradients: Sequence[Tensor], cells: Tensor | None, aggregation: int, *_: object
) -> None:
    check_layers("pool", activations, gradients, cells, check_code("pool", aggregation))


def _check_out(
    out: Tensor,
    flags: Tensor,
    activations: Sequence[Tensor],
    gradients: Sequence[Tensor],
    cells: Tensor | None,
    aggregation: int,
) -> None:
    check_layers("pool_out", activations, gradients, cells, check_code("pool_out", aggregation))
    check_pool_out("pool_out", out, flags, activations, gradients, cells)


def check_pool_out(
    caller: str,
    out: Tensor,
    flags: Tensor,
    activations: Sequence[Tensor],
    gradients: Sequence[Tensor],
    cells: Tensor | None,
) -> None:
    """Raise for outputs of the wrong size or dtype, or that overlap an input or each other."""
    shape, dtype = map_shape(activations, gradients, cells), result_dtype(gradients[0])
    if out.dtype is not dtype or out.numel() != shape[0] * shape[1] or not out.is_contiguous():
        raise ValueError(f"{caller}: out must be contiguous {dtype} {list(shape)}, got {out.dtype} {list(out.shape)}")
    if flags.dtype is not torch.int32 or flags.shape != shape[:1] or not flags.is_contiguous():
        raise ValueError(
            f"{caller}: flags must be contiguous int32 [{shape[0]}], got {flags.dtype} {list(flags.shape)}"
        )
    inputs = {"activations": activations, "gradients": gradients, "cells": cells}
    check_apart(caller, "out", out, flags=flags, **inputs)
    check_apart(caller, "flags", flags, **inputs)


_INPUTS = "Tensor[] activations, Tensor[] gradients, Tensor? cells, int aggregation"
_POOL = Op(
    "pool",
    f"({_INPUTS}, bool check) -> Tensor",
    reference=_reference,
    check=_check,
    fake=lambda A, G, cells, *_: float_like(G[0], map_shape(A, G, cells)),
    triton="pool",
)
_POOL_OUT = Op(
    "pool_out",
    f"(Tensor(a!) out, Tensor(b!) flags, {_INPUTS}) -> ()",
    reference=lambda out, flags, *inputs: pool_flagged(*inputs),
    check=_check_out,
    triton="pool",
)


def check_layers(
    caller: str,
    activations: Tensor | Sequence[Tensor],
    gradients: Tensor | Sequence[Tensor],
    cells: Tensor | None,
    aggregation: str,
) -> tuple[list[Tensor], list[Tensor]]:
    """Check activations and gradients; returns them as lists with one tensor for each layer."""
    A = check_tensors(caller, "activations", activations)
    G = check_tensors(caller, "gradients", gradients)
    check_choice(caller, "aggregation", aggregation, AGGREGATIONS)
    if not A or len(A) != len(G):
        raise ValueError(
            f"{caller}: gradients must be one tensor per layer of activations, got {len(G)} for {len(A)} layers"
        )
    for a, g in zip(A, G, strict=True):
        if g.dim() != 3:
            raise ValueError(f"{caller}: gradients must be [T, S, D], got {list(g.shape)}")
        if a.dim() not in (2, 3) or a.shape[-2:] != g.shape[-2:] or (a.dim() == 3 and a.shape[0] != g.shape[0]):
            raise ValueError(
                f"{caller}: activations must be [S, D] or [T, S, D] like gradients {list(g.shape)}, got {list(a.shape)}"
            )
        if a.dtype is not g.dtype:
            raise TypeError(f"{caller}: gradients must be of the activations' dtype {a.dtype}, got {g.dtype}")
        if a.device != g.device or g.device != G[0].device:
            raise ValueError(f"{caller}: gradients must be on the activations' device {a.device}, got {g.device}")
        if g.shape[0] != G[0].shape[0] or (cells is None and g.shape[1] != G[0].shape[1]):
            raise ValueError(
                f"{caller}: gradients must have the same T and cells in every layer, "
                f"got {list(g.shape)} after {list(G[0].shape)}"
            )
        if g.shape[1] == 0 or g.shape[2] == 0:
            raise ValueError(f"{caller}: gradients must have a row and a channel at least, got {list(g.shape)}")
    if cells is not None:
        check_tensor(caller, "cells", cells)
        if cells.dtype is not torch.int64 or cells.dim() != 1 or cells.shape[0] == 0:
            raise ValueError(f"{caller}: cells must be int64 [N], N > 0, got {cells.dtype} {list(cells.shape)}")
        if cells.device != G[0].device:
            raise ValueError(f"{caller}: cells must be on the gradients' device {G[0].device}, got {cells.device}")
    return list(map(plain, A)), list(map(plain, G))


def check_outputs(caller: str, **buffers: Tensor) -> None:
    """Raise for anything but tensors that can be written into."""
    for name, buffer in buffers.items():
        check_tensor(caller, name, buffer)
        if buffer.requires_grad:
            raise ValueError(f"{caller}: {name} must not require gradients, got a tensor that does")


def pool(
    activations: Tensor | Sequence[Tensor],
    gradients: Tensor | Sequence[Tensor],
    cells: Tensor | None = None,
    aggregation: str = "layer_cam",
    *,
    check: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Pool activations, weighted by their gradients, to raw maps of T targets (docs/method.md, section 1).

    >>> activations = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])  # 3 cells, 2 channels
    >>> gradients = torch.tensor([[[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]])  # of one target
    >>> pool(activations, gradients)
    tensor([[1., 1., 0.]])

    Args:
        activations: [S, D], shared by all targets, or [T, S, D]; float32, bfloat16 or float16. A sequence has one
            tensor for each layer, with any D: the result is the normalized mean of the layers' normalized maps.
        gradients: [T, S, D], of the dtype of the activations; a sequence if these are one. Not read by `activation`.
        cells: int64 [N], the row of each cell of the grid in the sequence, row-major; None: all S rows.
        aggregation: one of `AGGREGATIONS`. The default is that of the method `default`.
        check: raise for NaN and Inf, which synchronizes on a GPU. Otherwise maps that they reach are zeros, and other
            maps are unaffected. On `triton`, `check=False` treats cells out of range as NaN.
        backend: name of a backend; None: the fastest that serves the tensors' device.

    Returns:
        float32 [T, N] in 0..1 (float64 for float64 input on the reference).

    Raises:
        ValueError: a shape, device or cell index is wrong, or a value is NaN or Inf.
        TypeError: a type or dtype is wrong.
        RuntimeError: the backend cannot run here.
    """
    A, G = check_layers("pool", activations, gradients, cells, aggregation)
    check_bool("pool", "check", check)
    overload = _POOL.overload(G[0], backend)
    check_float("pool", "activations", A[0], overload)
    return overload(A, G, cells, CODES[aggregation], check)


def pool_out(
    out: Tensor,
    flags: Tensor,
    activations: Tensor | Sequence[Tensor],
    gradients: Tensor | Sequence[Tensor],
    cells: Tensor | None = None,
    aggregation: str = "layer_cam",
    *,
    backend: str | None = None,
) -> None:
    """`pool(check=False)` into given buffers.

    Args:
        out: float32 [T, N], contiguous; receives the maps.
        flags: int32 [T], contiguous; receives 1 for maps that NaN or Inf reached (they are zeros), else 0.
        activations: as in `pool`.
        gradients: as in `pool`.
        cells: as in `pool`.
        aggregation: as in `pool`.
        backend: as in `pool`.

    Raises:
        ValueError, TypeError, RuntimeError: as in `pool`, or for a buffer of the wrong shape, dtype or device, or that
            overlaps another argument.
    """
    A, G = check_layers("pool_out", activations, gradients, cells, aggregation)
    overload = _POOL_OUT.overload(G[0], backend)
    check_float("pool_out", "activations", A[0], overload)
    check_outputs("pool_out", out=out, flags=flags)
    shape = map_shape(A, G, cells)
    if out.dtype is not result_dtype(G[0]) or out.shape != shape or not out.is_contiguous():
        raise ValueError(
            f"pool_out: out must be contiguous {result_dtype(G[0])} {list(shape)}, got {out.dtype} {list(out.shape)}"
        )
    if flags.dtype is not torch.int32 or flags.shape != shape[:1] or not flags.is_contiguous():
        raise ValueError(
            f"pool_out: flags must be contiguous int32 [{shape[0]}], got {flags.dtype} {list(flags.shape)}"
        )
    if out.device != G[0].device or flags.device != G[0].device:
        raise ValueError(f"pool_out: out and flags must be on {G[0].device}, got {out.device} and {flags.device}")
    overload(out, flags, A, G, cells, CODES[aggregation])
