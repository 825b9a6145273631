"""`pool` and then `refine`, in place."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .pool import pool, pool_out
from .refine import refine_out


def diffusion_cam(
    activations: list[Tensor],
    gradients: list[Tensor],
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
    """See `dcam_fast.ops.diffusion_cam`."""
    maps = pool(activations, gradients, cells, aggregation, check).reshape(-1, height, width)
    refine_out(maps, maps, config, None, repetition, repetitions, image_side, False)
    return maps


def diffusion_cam_out(
    out: Tensor,
    flags: Tensor,
    workspace: Tensor,
    activations: list[Tensor],
    gradients: list[Tensor],
    cells: Tensor | None,
    aggregation: int,
    config: Sequence[float],
    repetition: float,
    repetitions: Tensor | None,
    image_side: float,
) -> None:
    """See `dcam_fast.ops.diffusion_cam_out`. Allocates with torch; `workspace` is not used."""
    pool_out(out.view(out.shape[0], -1), flags, activations, gradients, cells, aggregation)
    refine_out(out, out, config, None, repetition, repetitions, image_side, False)
