"""`guided_filter`: maps smoothed along the edges of their image (docs/method.md, section 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from dcam_fast.config import MAX_EPSILON, MAX_RADIUS, MIN_EPSILON
from dcam_fast.ops import reference
from dcam_fast.ops._arguments import check_number, check_tensor, is_int
from dcam_fast.ops._backends import Op, check_float, check_maps, plain


def _fake(maps: Tensor, guide: Tensor, radius: int, epsilon: float) -> Tensor:
    return maps.new_empty(maps.shape, dtype=torch.float64 if maps.dtype is torch.float64 else torch.float32)


def _check(maps: Tensor, guide: Tensor, radius: int, epsilon: float) -> None:
    check_maps("guided_filter", maps)
    check_guide("guided_filter", guide, maps)
    if not is_int(radius) or not 1 <= radius <= MAX_RADIUS:
        raise ValueError(f"guided_filter: radius must be from 1 to {MAX_RADIUS} cells, got {radius}")
    if not MIN_EPSILON <= check_number("guided_filter", "epsilon", epsilon) <= MAX_EPSILON:
        raise ValueError(f"guided_filter: epsilon must be from {MIN_EPSILON:g} to {MAX_EPSILON:g}, got {epsilon}")


_GUIDED_FILTER = Op(
    "guided_filter",
    "(Tensor maps, Tensor guide, int radius, float epsilon) -> Tensor",
    _fake,
    reference.guided_filter,
    _check,
    "guided",
)


def guided_filter(
    maps: Tensor, guide: Tensor, radius: int = 4, epsilon: float = 1e-3, *, backend: str | None = None
) -> Tensor:
    """Each cell becomes what its color says: around every cell the map is fitted as a linear function of the colors
    there, and a cell's value is the mean of the fits it takes part in (the guided filter of He, Sun and Tang 2013, with
    a color image as the guide). What looks alike and lies together gets values alike; edges of the image stay edges.

    Args:
        maps: [T, h, w]; float32, bfloat16 or float16. Values must be finite, which is not checked.
        guide: float32 [3, h, w], the colors of the cells in 0..1, as `dcam_fast.images.cell_colors` gives them.
        radius: of the square windows in cells, 1 to 8; they are cut at the border.
        epsilon: variance of colors that counts as an edge, 1e-5 to 1e6; the smaller, the fainter edges are kept.
        backend: a backend by name; None: the fastest that serves the tensor's device.

    Returns:
        float32 [T, h, w], at least 0 (float64 for float64 input on the reference).

    Raises:
        ValueError, TypeError: an argument of the wrong shape, dtype or device.
    """
    _check(maps, guide, radius, epsilon)
    overload = _GUIDED_FILTER.overload(maps, backend)
    check_float("guided_filter", "maps", maps, overload)
    return overload(plain(maps), plain(guide), int(radius), float(epsilon))


def check_guide(caller: str, guide: Tensor | None, maps: Tensor) -> Tensor:
    """The guide, or ValueError where it is not the colors of the cells of maps [T, h, w]."""
    if guide is None:
        raise ValueError(
            f"{caller}: guide must be the colors of the cells for this config (dcam_fast.images.cell_colors), got None"
        )
    check_tensor(caller, "guide", guide)
    shape = [3, *maps.shape[1:]]
    if guide.dtype is not torch.float32 or list(guide.shape) != shape or guide.device != maps.device:
        raise ValueError(
            f"{caller}: guide must be float32 {shape} on {maps.device}, "
            f"got {guide.dtype} {list(guide.shape)} on {guide.device}"
        )
    return guide
