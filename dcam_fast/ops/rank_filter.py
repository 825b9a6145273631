"""`rank_filter`: the rank-weighted Gaussian filter of AKD alone (docs/method.md, section 2)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcam_fast.config import KERNEL_SIZES
from dcam_fast.ops import reference
from dcam_fast.ops._arguments import check_array, is_int
from dcam_fast.ops._backends import Op, array_kernels, check_float, check_map, check_maps, plain


def _fake(maps: Tensor, k: int) -> Tensor:
    return maps.new_empty(maps.shape, dtype=torch.float64 if maps.dtype is torch.float64 else torch.float32)


def _check_side(caller: str, k: int) -> int:
    if not is_int(k) or k not in KERNEL_SIZES:
        raise ValueError(f"{caller}: k must be an odd int from 3 to 11, got {k!r}")
    return int(k)


def _check(maps: Tensor, k: int) -> None:
    check_maps("rank_filter", maps)
    _check_side("rank_filter", k)


_RANK_FILTER = Op("rank_filter", "(Tensor maps, int k) -> Tensor", _fake, reference.rank_filter, _check, "refine")


def rank_filter(maps: Tensor, k: int, *, backend: str | None = None) -> Tensor:
    """Each cell becomes a mean of its k x k window, Gaussian in the rank of the values around their median
    (docs/method.md, section 2).

    Borders reflect without repeating the edge; where the window is larger than the map the reflection is folded until
    it falls inside, and an axis of one cell repeats it. A flat window keeps its value; a window whose mean is not
    positive gives 0.

    Args:
        maps: [T, h, w]; float32, bfloat16 or float16. Values must be finite, which is not checked.
        k: side of the window, odd, 3 to 11.
        backend: a backend by name; None: the fastest that serves the tensor's device.

    Returns:
        float32 [T, h, w] (float64 for float64 input on the reference).
    """
    check_maps("rank_filter", maps)
    k = _check_side("rank_filter", k)
    overload = _RANK_FILTER.overload(maps, backend)
    check_float("rank_filter", "maps", maps, overload)
    return overload(plain(maps), k)


def rank_filter_array(map: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """`rank_filter` on one float32 [h, w] array, past torch's dispatcher: the path of least latency."""
    check_array("rank_filter_array", "map", map)
    k = _check_side("rank_filter_array", k)
    if array_kernels is None:
        return rank_filter(check_map("rank_filter_array", map), k)[0].numpy()
    return array_kernels.rank_filter_array(map, k)
