"""`diffusion_cam`: `pool` and `refine` in one call (docs/method.md, sections 1 to 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dcam_fast.config import UNGUIDED, RefineConfig
from dcam_fast.ops import reference
from dcam_fast.ops._arguments import check_bool, check_choice, check_config, check_pair, check_tensor, check_tensors
from dcam_fast.ops._backends import Op, check_apart, check_float, float_like, native, result_dtype
from dcam_fast.ops.pool import (
    AGGREGATIONS,
    CODES,
    check_code,
    check_layers,
    check_outputs,
    check_pool_out,
    map_shape,
    pool_flagged,
)
from dcam_fast.ops.refine import check_image_side, check_no_guide, check_ratios

_WORKSPACE_ALIGNMENT = 16  # bytes, as in csrc/arguments.h
_WEIGHTED = ("pooled", "grad_cam", "grad_cam_paper")


def _refine(
    maps: Tensor, config: Sequence[float], repetition: float, repetitions: Tensor | None, image_side: float
) -> Tensor:
    ratio = repetition if repetitions is None else repetitions
    return reference.refine(maps, RefineConfig.from_packed(config), repetition=ratio, image_side=image_side)


def _reference(
    activations: Sequence[Tensor],
    gradients: Sequence[Tensor],
    cells: Tensor | None,
    aggregation: int,
    height: int,
    width: int,
    *refinement: Any,
) -> Tensor:
    *settings, check = refinement
    maps = reference.pool(activations, gradients, cells, AGGREGATIONS[aggregation], check=check)
    return _refine(maps.reshape(-1, height, width), *settings)


def _reference_out(
    out: Tensor,
    flags: Tensor,
    workspace: Tensor,
    activations: Sequence[Tensor],
    gradients: Sequence[Tensor],
    cells: Tensor | None,
    aggregation: int,
    *settings: Any,
) -> tuple[Tensor, Tensor]:
    maps, reached = pool_flagged(activations, gradients, cells, aggregation)
    return _refine(maps.reshape(out.shape), *settings), reached


def _check_refinement(
    caller: str, shape: tuple[int, ...], cells: int, config: Sequence[float], repetitions: Tensor | None
) -> None:
    """Check the arguments of the refinement of maps of `shape` (T, h, w)."""
    T, height, width = shape
    if height < 1 or width < 1 or height * width != cells:
        raise ValueError(f"{caller}: grid must be (h, w) of {cells} cells, got {(height, width)}")
    if repetitions is not None and repetitions.shape != (T,):
        raise ValueError(f"{caller}: repetition must be a float or float [{T}], got {list(repetitions.shape)}")
    RefineConfig.from_packed(config)


def _check(
    activations: Sequence[Tensor],
    gradients: Sequence[Tensor],
    cells: Tensor | None,
    aggregation: int,
    height: int,
    width: int,
    config: Sequence[float],
    repetition: float,
    repetitions: Tensor | None,
    *_: object,
) -> None:
    check_layers("diffusion_cam", activations, gradients, cells, check_code("diffusion_cam", aggregation))
    T, N = map_shape(activations, gradients, cells)
    _check_refinement("diffusion_cam", (T, height, width), N, config, repetitions)


def _check_out(
    out: Tensor,
    flags: Tensor,
    workspace: Tensor,
    activations: Sequence[Tensor],
    gradients: Sequence[Tensor],
    cells: Tensor | None,
    aggregation: int,
    config: Sequence[float],
    repetition: float,
    repetitions: Tensor | None,
    *_: object,
) -> None:
    caller = "diffusion_cam_out"
    check_layers(caller, activations, gradients, cells, check_code(caller, aggregation))
    T, N = map_shape(activations, gradients, cells)
    if out.dim() != 3 or out.shape[0] != T:
        raise ValueError(f"{caller}: out must be [{T}, h, w], got {list(out.shape)}")
    _check_refinement(caller, tuple(out.shape), N, config, repetitions)
    check_pool_out(caller, out, flags, activations, gradients, cells)
    check_apart(caller, "out", out, repetition=repetitions)
    check_apart(caller, "flags", flags, repetition=repetitions)
    past = workspace.data_ptr() % _WORKSPACE_ALIGNMENT
    if past:
        need = f"begin at a multiple of {_WORKSPACE_ALIGNMENT} bytes"
        raise ValueError(f"{caller}: workspace must {need}, got one {past} bytes past it")
    inputs = {"activations": activations, "gradients": gradients, "cells": cells, "repetition": repetitions}
    check_apart(caller, "workspace", workspace, out=out, flags=flags, **inputs)


_POOLED = "Tensor[] activations, Tensor[] gradients, Tensor? cells, int aggregation"
_REFINED = "float[] config, float repetition, Tensor? repetitions, float image_side"
_OP = Op(
    "diffusion_cam",
    f"({_POOLED}, int height, int width, {_REFINED}, bool check) -> Tensor",
    reference=_reference,
    check=_check,
    fake=lambda A, G, cells, aggregation, height, width, *_: float_like(G[0], (G[0].shape[0], height, width)),
    triton="diffusion_cam",
)
_OP_OUT = Op(
    "diffusion_cam_out",
    f"(Tensor(a!) out, Tensor(b!) flags, Tensor(c!) workspace, {_POOLED}, {_REFINED}) -> ()",
    reference=_reference_out,
    check=_check_out,
    triton="diffusion_cam",
)


def _settings(
    caller: str, config: RefineConfig, repetition: float | Tensor, image_side: float | None, like: Tensor
) -> tuple[float, Tensor | None, float]:
    """Check the arguments of the refinement; returns repetition, repetitions and image_side of the operators."""
    check_config(caller, config)
    check_no_guide(caller, config)
    side = check_image_side(caller, image_side) if config.needs_image_side else 0.0
    return *check_ratios(caller, repetition, like.shape[0], like.device), side


def diffusion_cam(
    activations: Tensor | Sequence[Tensor],
    gradients: Tensor | Sequence[Tensor],
    grid: tuple[int, int],
    cells: Tensor | None = None,
    aggregation: str = "layer_cam",
    config: RefineConfig = UNGUIDED,
    *,
    repetition: float | Tensor = 0.0,
    image_side: float | None = None,
    check: bool = True,
    backend: str | None = None,
) -> Tensor:
    """`refine(pool(...).reshape(T, h, w), ...)` in one call.

    >>> activations, gradients = torch.rand(6, 8), torch.rand(2, 6, 8)
    >>> diffusion_cam(activations, gradients, (2, 3)).shape
    torch.Size([2, 2, 3])

    Args:
        activations: as in `pool`.
        gradients: as in `pool`.
        grid: (h, w) of the maps; h w cells are pooled.
        cells: as in `pool`.
        aggregation: as in `pool`.
        config: as in `refine`, without a guide.
        repetition: as in `refine`.
        image_side: as in `refine`.
        check: as in `pool`.
        backend: name of a backend; None: the fastest that serves the tensors' device.

    Returns:
        float32 [T, h, w] in 0..1 (float64 for float64 input on the reference).

    Raises:
        ValueError: a shape, device, number or cell index is wrong, or a value is NaN or Inf.
        TypeError: a type or dtype is wrong.
        RuntimeError: the backend cannot run here.
    """
    A, G = check_layers("diffusion_cam", activations, gradients, cells, aggregation)
    height, width = check_pair("diffusion_cam", "grid", grid)
    check_bool("diffusion_cam", "check", check)
    count = map_shape(A, G, cells)[1]
    if height < 1 or width < 1 or height * width != count:
        raise ValueError(f"diffusion_cam: grid must be (h, w) of {count} cells, got {tuple(grid)}")
    settings = _settings("diffusion_cam", config, repetition, image_side, G[0])
    overload = _OP.overload(G[0], backend)
    check_float("diffusion_cam", "activations", A[0], overload)
    return overload(A, G, cells, CODES[aggregation], height, width, config.packed, *settings, check)


def diffusion_cam_workspace(
    gradients: Tensor | Sequence[Tensor], cells: Tensor | None = None, aggregation: str = "layer_cam"
) -> int:
    """Number of float32 values that the `workspace` of `diffusion_cam_out` needs; 0 except for CUDA tensors.

    Raises:
        ValueError, TypeError: as in `pool`.
    """
    caller = "diffusion_cam_workspace"
    G = check_tensors(caller, "gradients", gradients)
    check_choice(caller, "aggregation", aggregation, AGGREGATIONS)
    if cells is not None:
        check_tensor(caller, "cells", cells)
    if not G or any(g.dim() != 3 for g in G) or (cells is not None and cells.dim() != 1):
        shapes = [list(g.shape) for g in G]
        raise ValueError(f"{caller}: gradients must be [T, S, D] and cells [N], got {shapes}")
    if native is None or not G[0].is_cuda:
        return 0
    T, N = map_shape(G, G, cells)
    strides = [(g.shape[2] + 31) // 32 * 32 for g in G]
    parts = [native.pool_weight_parts(T, N, g.shape[2]) for g in G]
    weights = [T * stride * (1 + part) for stride, part in zip(strides, parts, strict=True)]
    layer_maps = (len(G) * T * N + 3) // 4 * 4 if len(G) > 1 else 0
    return layer_maps + (max(weights) if aggregation in _WEIGHTED else 0)


def diffusion_cam_out(
    out: Tensor,
    flags: Tensor,
    workspace: Tensor,
    activations: Tensor | Sequence[Tensor],
    gradients: Tensor | Sequence[Tensor],
    cells: Tensor | None = None,
    aggregation: str = "layer_cam",
    config: RefineConfig = UNGUIDED,
    *,
    repetition: float | Tensor = 0.0,
    image_side: float | None = None,
    backend: str | None = None,
) -> None:
    """`diffusion_cam(check=False)` into given buffers.

    On `cuda` it neither allocates nor synchronizes if `cells` and the channels of `activations` and `gradients` are
    contiguous. A CUDA graph can then capture it.

    Args:
        out: float32 [T, h, w], contiguous; receives the maps.
        flags: int32 [T], contiguous; receives 1 for maps that NaN or Inf reached (they are zeros), else 0.
        workspace: float32, contiguous, of at least `diffusion_cam_workspace(...)` values. It begins at a multiple of
            16 bytes, as every new tensor does.
        activations: as in `pool`.
        gradients: as in `pool`.
        cells: as in `pool`.
        aggregation: as in `pool`.
        config: as in `refine`, without a guide.
        repetition: as in `refine`.
        image_side: as in `refine`.
        backend: name of a backend; None: the fastest that serves the tensors' device.

    Raises:
        ValueError, TypeError, RuntimeError: as in `diffusion_cam`, or for a buffer of the wrong shape, dtype or
            device, or that overlaps another argument.
    """
    A, G = check_layers("diffusion_cam_out", activations, gradients, cells, aggregation)
    check_outputs("diffusion_cam_out", out=out, flags=flags, workspace=workspace)
    T, N = map_shape(A, G, cells)
    dtype = result_dtype(G[0])
    if out.dtype is not dtype or out.dim() != 3 or out.shape[0] != T or out.shape[1] * out.shape[2] != N:
        raise ValueError(
            f"diffusion_cam_out: out must be contiguous {dtype} [{T}, h, w] of {N} cells a map, "
            f"got {out.dtype} {list(out.shape)}"
        )
    if flags.dtype is not torch.int32 or flags.shape != (T,):
        raise ValueError(
            f"diffusion_cam_out: flags must be contiguous int32 [{T}], got {flags.dtype} {list(flags.shape)}"
        )
    need = diffusion_cam_workspace(G, cells, aggregation)
    if workspace.dtype is not torch.float32 or workspace.numel() < need:
        raise ValueError(
            f"diffusion_cam_out: workspace must be contiguous float32 [{need}] at least, "
            f"got {workspace.dtype} {list(workspace.shape)}"
        )
    for name, tensor in (("out", out), ("flags", flags), ("workspace", workspace)):
        if tensor.device != G[0].device or not tensor.is_contiguous():
            raise ValueError(
                f"diffusion_cam_out: {name} must be contiguous on {G[0].device}, "
                f"got strides {tensor.stride()} on {tensor.device}"
            )
    settings = _settings("diffusion_cam_out", config, repetition, image_side, G[0])
    overload = _OP_OUT.overload(G[0], backend)
    check_float("diffusion_cam_out", "activations", A[0], overload)
    overload(out, flags, workspace, A, G, cells, CODES[aggregation], config.packed, *settings)
