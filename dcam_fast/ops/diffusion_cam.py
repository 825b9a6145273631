"""`diffusion_cam`: `pool` and `refine` in one call (docs/method.md, sections 1 to 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dcam_fast.config import UNGUIDED, RefineConfig
from dcam_fast.ops import reference
from dcam_fast.ops._arguments import check_bool, check_choice, check_config, check_pair, check_tensor, check_tensors
from dcam_fast.ops._backends import Op, check_apart, check_float, native
from dcam_fast.ops.pool import (
    AGGREGATIONS,
    CODES,
    check_code,
    check_layers_match,
    check_outputs,
    check_pool_out,
    map_shape,
    out_dtype,
)
from dcam_fast.ops.refine import check_image_side, check_no_guide, check_ratios

_WEIGHTED = ("pooled", "grad_cam", "grad_cam_paper")


def _fake(
    activations: Sequence[Tensor],
    gradients: Sequence[Tensor],
    cells: Tensor | None,
    aggregation: int,
    height: int,
    width: int,
    config: Sequence[float],
    repetition: float,
    repetitions: Tensor | None,
    image_side: float,
    check: bool,
) -> Tensor:
    return gradients[0].new_empty((gradients[0].shape[0], height, width), dtype=out_dtype(gradients[0]))


def _reference(
    activations: Sequence[Tensor],
    gradients: Sequence[Tensor],
    cells: Tensor | None,
    aggregation: int,
    height: int,
    width: int,
    config: Sequence[float],
    repetition: float,
    repetitions: Tensor | None,
    image_side: float,
    check: bool,
) -> Tensor:
    maps = reference.pool(activations, gradients, cells, AGGREGATIONS[aggregation], check=check)
    return reference.refine(
        maps.reshape(-1, height, width),
        RefineConfig.from_packed(config),
        repetition=repetition if repetitions is None else repetitions,
        image_side=image_side,
    )


def _fake_out(*arguments: object) -> None:
    return None


def _reference_out(
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
    image_side: float,
) -> None:
    maps, reached = reference.pool_flagged(activations, gradients, cells, AGGREGATIONS[aggregation])
    ratio = repetition if repetitions is None else repetitions
    settings = RefineConfig.from_packed(config)
    out.copy_(reference.refine(maps.reshape(out.shape), settings, repetition=ratio, image_side=image_side))
    flags.copy_(reached)


def _check_refinement(
    caller: str, shape: tuple[int, ...], cells: int, config: Sequence[float], repetitions: Tensor | None
) -> None:
    """`shape` (T, h, w) is of the maps."""
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
    image_side: float,
    check: bool,
) -> None:
    check_layers_match("diffusion_cam", activations, gradients, cells, check_code("diffusion_cam", aggregation))
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
    image_side: float,
) -> None:
    caller = "diffusion_cam_out"
    check_layers_match(caller, activations, gradients, cells, check_code(caller, aggregation))
    T, N = map_shape(activations, gradients, cells)
    if out.dim() != 3 or out.shape[0] != T:
        raise ValueError(f"{caller}: out must be [{T}, h, w], got {list(out.shape)}")
    _check_refinement(caller, tuple(out.shape), N, config, repetitions)
    _check_overlap(out, flags, workspace, activations, gradients, cells, repetitions)


def _check_overlap(
    out: Tensor,
    flags: Tensor,
    workspace: Tensor,
    activations: Sequence[Tensor],
    gradients: Sequence[Tensor],
    cells: Tensor | None,
    repetitions: Tensor | None,
) -> None:
    caller = "diffusion_cam_out"
    check_pool_out(caller, out, flags, activations, gradients, cells)
    check_apart(caller, "out", out, repetition=repetitions)
    check_apart(caller, "flags", flags, repetition=repetitions)
    inputs = {"activations": activations, "gradients": gradients, "cells": cells, "repetition": repetitions}
    check_apart(caller, "workspace", workspace, out=out, flags=flags, **inputs)


_POOLED = "Tensor[] activations, Tensor[] gradients, Tensor? cells, int aggregation"
_REFINED = "float[] config, float repetition, Tensor? repetitions, float image_side"
_OP = Op(
    "diffusion_cam",
    f"({_POOLED}, int height, int width, {_REFINED}, bool check) -> Tensor",
    _fake,
    _reference,
    _check,
    "diffusion_cam",
)
_OP_OUT = Op(
    "diffusion_cam_out",
    f"(Tensor(a!) out, Tensor(b!) flags, Tensor(c!) workspace, {_POOLED}, {_REFINED}) -> ()",
    _fake_out,
    _reference_out,
    _check_out,
    "diffusion_cam",
)


def _settings(
    caller: str, config: RefineConfig, repetition: float | Tensor, image_side: float | None, like: Tensor
) -> tuple[float, Tensor | None, float]:
    """repetition, repetitions and image_side of the operators."""
    check_config(caller, config)
    check_no_guide(caller, config)
    side = check_image_side(caller, image_side) if config.needs_image_side else 0.0
    return *check_ratios(caller, repetition, like.shape[0], like.device), side


def diffusion_cam(
    activations: Tensor | Sequence[Tensor],
    gradients: Tensor | Sequence[Tensor],
    grid: tuple[int, int],
    cells: Tensor | None = None,
    aggregation: str = "elementwise",
    config: RefineConfig = UNGUIDED,
    *,
    repetition: float | Tensor = 0.0,
    image_side: float | None = None,
    check: bool = True,
    backend: str | None = None,
) -> Tensor:
    """`refine(pool(...).reshape(T, h, w), ...)` in one call.

    Args:
        activations, gradients, cells, aggregation: as for `pool`.
        grid: (h, w) of the maps; h w cells are pooled.
        config, repetition, image_side: as for `refine`.
        check: refuse NaN and Inf (on a GPU this waits for the result). Otherwise a map they reach is all zeros.
        backend: a backend by name; None: the fastest that serves the tensors' device.

    Returns:
        float32 [T, h, w] in 0..1 (float64 for float64 input on the reference).

    Raises:
        ValueError, TypeError: an argument of the wrong shape, dtype or device; a cell outside 0..S-1; NaN or Inf.
    """
    A, G = check_layers_match("diffusion_cam", activations, gradients, cells, aggregation)
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
    gradients: Tensor | Sequence[Tensor], cells: Tensor | None = None, aggregation: str = "elementwise"
) -> int:
    """float32 numbers that the `workspace` of `diffusion_cam_out` must have; 0 but for CUDA tensors."""
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
    block_maps = (len(G) * T * N + 3) // 4 * 4 if len(G) > 1 else 0
    return block_maps + (max(weights) if aggregation in _WEIGHTED else 0)


def diffusion_cam_out(
    out: Tensor,
    flags: Tensor,
    workspace: Tensor,
    activations: Tensor | Sequence[Tensor],
    gradients: Tensor | Sequence[Tensor],
    cells: Tensor | None = None,
    aggregation: str = "elementwise",
    config: RefineConfig = UNGUIDED,
    *,
    repetition: float | Tensor = 0.0,
    image_side: float | None = None,
    backend: str | None = None,
) -> None:
    """`diffusion_cam(check=False)` into the caller's buffers; with `cuda` it allocates nothing and waits for nothing
    where the channels of `activations` and `gradients` and the `cells` lie next to each other, so that a CUDA graph
    can capture it.

    Args:
        out: float32 [T, h, w], contiguous.
        flags: int32 [T], contiguous: 1 for every map that NaN or Inf reached (that map is zeros), else 0.
        workspace: float32, contiguous, of `diffusion_cam_workspace` numbers at least.
    """
    A, G = check_layers_match("diffusion_cam_out", activations, gradients, cells, aggregation)
    check_outputs("diffusion_cam_out", out=out, flags=flags, workspace=workspace)
    T, N = map_shape(A, G, cells)
    dtype = out_dtype(G[0])
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
