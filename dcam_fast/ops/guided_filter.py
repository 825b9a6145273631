"""`guided_filter`: smoothing of maps along the edges of their image (docs/method.md, section 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from dcam_fast.config import MAX_EPSILON, MAX_RADIUS, MIN_EPSILON
from dcam_fast.ops import reference
from dcam_fast.ops._arguments import check_number, check_tensor, is_int
from dcam_fast.ops._backends import Op, check_float, check_maps, float_like, plain


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
    reference=reference.guided_filter,
    check=_check,
    fake=lambda maps, *_: float_like(maps),
    triton="guided",
)


def guided_filter(
    maps: Tensor, guide: Tensor, radius: int = 4, epsilon: float = 1e-3, *, backend: str | None = None
) -> Tensor:
    """Smooth maps along the edges of their image: the guided filter of He, Sun and Tang (2013) with a color guide.

    In the window around every cell, the map is fitted as a linear function of the colors. The value of a cell is the
    mean of the fits of all windows that contain it. Cells that look alike and are close get similar values, and edges
    of the image become edges of the map.

    >>> guided_filter(torch.rand(2, 5, 7), torch.rand(3, 5, 7)).shape
    torch.Size([2, 5, 7])

    Args:
        maps: [T, h, w]; float32, bfloat16 or float16. Values must be finite, which is not checked.
        guide: float32 [3, h, w], the colors of the cells in 0..1, as `dcam_fast.images.cell_colors` returns them.
        radius: of the square windows in cells, 1 to 8. Windows are cut at the border.
        epsilon: variance of colors that counts as an edge, 1e-5 to 1e6. A smaller value keeps fainter edges.
        backend: name of a backend; None: the fastest that serves the tensor's device.

    Returns:
        float32 [T, h, w], not negative (float64 for float64 input on the reference).

    Raises:
        ValueError: a shape, device or number is wrong.
        TypeError: a type or dtype is wrong.
        RuntimeError: the backend cannot run here.
    """
    _check(maps, guide, radius, epsilon)
    overload = _GUIDED_FILTER.overload(maps, backend)
    check_float("guided_filter", "maps", maps, overload)
    return overload(plain(maps), plain(guide), int(radius), float(epsilon))


def check_guide(caller: str, guide: Tensor | None, maps: Tensor) -> Tensor:
    """Check the colors of the cells of maps [T, h, w]; returns them."""
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
