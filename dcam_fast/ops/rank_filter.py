"""`rank_filter`: the rank-weighted Gaussian filter of AKD alone (docs/method.md, section 2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dcam_fast.config import KERNEL_SIZES
from dcam_fast.ops import reference
from dcam_fast.ops._arguments import check_array, is_int
from dcam_fast.ops._backends import Op, array_kernels, check_float, check_map, check_maps, float_like, plain


def _check_side(caller: str, k: int) -> int:
    if not is_int(k) or k not in KERNEL_SIZES:
        raise ValueError(f"{caller}: k must be an odd int from 3 to 11, got {k!r}")
    return int(k)


def _check(maps: Tensor, k: int) -> None:
    check_maps("rank_filter", maps)
    _check_side("rank_filter", k)


_RANK_FILTER = Op(
    "rank_filter",
    "(Tensor maps, int k) -> Tensor",
    reference=reference.rank_filter,
    check=_check,
    fake=lambda maps, k: float_like(maps),
    triton="refine",
)


def rank_filter(maps: Tensor, k: int, *, backend: str | None = None) -> Tensor:
    """Filter maps by a mean over k x k windows, Gaussian in the rank of the values (docs/method.md, section 2).

    Borders are reflected without repeating the edge. A window larger than the map is reflected repeatedly. A flat
    window keeps its value; a window whose mean is not positive gives 0.

    >>> import torch
    >>> rank_filter(torch.ones(1, 3, 3), 3).shape
    torch.Size([1, 3, 3])

    Args:
        maps: [T, h, w]; float32, bfloat16 or float16. Values must be finite, which is not checked.
        k: side of the window, odd, 3 to 11.
        backend: name of a backend; None: the fastest that serves the tensor's device.

    Returns:
        float32 [T, h, w] (float64 for float64 input on the reference).

    Raises:
        ValueError: a shape or `k` is wrong.
        TypeError: a type or dtype is wrong.
        RuntimeError: the backend cannot run here.
    """
    check_maps("rank_filter", maps)
    k = _check_side("rank_filter", k)
    overload = _RANK_FILTER.overload(maps, backend)
    check_float("rank_filter", "maps", maps, overload)
    return overload(plain(maps), k)


def rank_filter_array(map: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """`rank_filter` of one NumPy map, float32 [h, w], without torch's dispatcher: the lowest latency.

    Raises:
        ValueError: a shape, dtype or `k` is wrong.
        TypeError: `map` is not a NumPy array.
    """
    check_array("rank_filter_array", "map", map)
    k = _check_side("rank_filter_array", k)
    if array_kernels is None:
        return rank_filter(check_map("rank_filter_array", map), k)[0].numpy()
    return array_kernels.rank_filter_array(map, k)
