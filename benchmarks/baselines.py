"""Baselines of the ops: the official algorithm as a loop, as array operations, under numba, and in PyTorch.

They compute the profile `released` (docs/method.md, sections 1 to 5). NumPy versions take one map `[h, w]` in float64,
PyTorch versions a batch in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Map = NDArray[np.float64]
Filter = Callable[[Map, int], Map]


def kernel_size(values: Map, step_ratio: float = 0.5) -> int:
    k = int(3 * min(int(1 / step_ratio) / 16, 2) * min(5 * values.std(), 2) * min(values.shape[0] / 512, 1.5))
    return max(3, min(k + 1 - k % 2, 11))


def loop_filter(values: Map, k: int) -> Map:
    """One window at a time, as in the official code."""
    radius = k // 2
    padded = np.pad(values, radius, mode="reflect")
    ranks = np.arange(k * k) - k * k // 2
    out = np.zeros_like(values)
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            window = np.sort(padded[row : row + k, column : column + k].flatten())
            mean = window.mean()
            if mean > 0:
                sigma = window.std() / mean
                weights = np.exp(-(ranks**2) / (2 * sigma**2 + 1e-300))
                weights[k * k // 2] = 1
                out[row, column] = (weights * window).sum() / weights.sum()
    return out


def array_filter(values: Map, k: int) -> Map:
    """All windows at once."""
    padded = np.pad(values, k // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k)).reshape(*values.shape, k * k)
    windows = np.sort(windows, axis=-1)
    mean = windows.mean(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = mean**2 / (2 * windows.var(-1))
    ranks = np.arange(k * k) - k * k // 2
    weights = np.exp(-(ranks**2) * np.nan_to_num(precision, posinf=1e300)[..., None])
    return np.where(mean > 0, (weights * windows).sum(-1) / weights.sum(-1), 0)


def numba_filter() -> Filter:
    """The compiled loop.

    Raises:
        ImportError: numba is not installed.
    """
    import numba

    @numba.njit(cache=False)
    def windows(padded: Map, out: Map, k: int) -> None:
        count = k * k
        window = np.empty(count)
        for row in range(out.shape[0]):
            for column in range(out.shape[1]):
                for i in range(k):
                    for j in range(k):
                        value = padded[row + i, column + j]
                        slot = i * k + j
                        while slot > 0 and window[slot - 1] > value:
                            window[slot] = window[slot - 1]
                            slot -= 1
                        window[slot] = value
                mean = window.mean()
                if mean <= 0:
                    out[row, column] = 0
                    continue
                variance = 0.0
                for value in window:
                    variance += (value - mean) ** 2
                precision = mean * mean * count / (2 * variance + 1e-300)
                total, weight_sum = 0.0, 0.0
                for rank in range(count):
                    weight = np.exp(-((rank - count // 2) ** 2) * precision) if rank != count // 2 else 1.0
                    total += weight * window[rank]
                    weight_sum += weight
                out[row, column] = total / weight_sum

    def run(values: Map, k: int) -> Map:
        out = np.empty_like(values)
        windows(np.pad(values, k // 2, mode="reflect"), out, k)
        return out

    return run


def refine_released(values: Map, repetition: float, rank_filter: Filter) -> Map:
    """The profile `released` with one of the filters. Its gating changes nothing, so three modules remain."""
    z = rank_filter(values, kernel_size(values))
    positive = z[z > 0]
    delta = 1e-6
    if positive.size:
        delta = 0.15 * np.median(positive) + 0.15 * np.percentile(z, 60) + 0.20 * positive.mean() + 0.015 * z.max()
    z = np.where(z < delta, z * np.clip(z / delta, 0.5, 1), z)
    z = np.clip(z, 0, values.max())
    z = (z - z.min()) / (z.max() - z.min() + 1e-8)
    instance = 0.05 * repetition + 0.02 * (z > z.mean() + 2 * z.std())
    energy = (instance * instance).sum()
    if energy == 0:
        return z
    reduced = np.maximum(z - min((z * instance).sum() / energy, 0.5) * instance, 0)
    return z if np.ptp(reduced) < 0.9 * np.ptp(z) else reduced


def pool_array(A: NDArray[np.float32], G: NDArray[np.float32], aggregation: str) -> NDArray[np.float32]:
    """`pooled` or `elementwise` pooling of A [N, D] and G [T, N, D] to [T, N], one target at a time."""
    maps = np.empty(G.shape[:2], np.float32)
    for raw, g in zip(maps, G, strict=True):
        raw[:] = np.maximum(A * (np.maximum(g, 0).mean(0) if aggregation == "pooled" else g), 0).mean(-1)
        raw -= raw.min()
        raw /= raw.max() + 1e-8
    return maps


def pool_torch(A: Tensor, G: Tensor, aggregation: str) -> Tensor:
    """`pooled` or `elementwise` pooling of A [N, D] and G [T, N, D] to [T, N]."""
    A, G = A.float(), G.float()
    weighted = A * G.relu().mean(1, keepdim=True) if aggregation == "pooled" else A * G
    raw = weighted.relu().mean(-1)
    raw = raw - raw.amin(1, keepdim=True)
    return raw / (raw.amax(1, keepdim=True) + 1e-8)


def refine_torch(maps: Tensor, repetition: float) -> Tensor:
    """The profile `released` on [T, h, w] with up to 64 rows, for which its kernel size is always 3."""
    windows = F.unfold(F.pad(maps[:, None], (1, 1, 1, 1), mode="reflect"), 3).sort(1).values
    mean = windows.mean(1, keepdim=True)
    sigma = windows.std(1, keepdim=True, correction=0) / mean
    ranks = torch.arange(-4, 5, device=maps.device, dtype=maps.dtype)[:, None]
    weights = torch.exp(-(ranks**2) / (2 * sigma**2).clamp(min=1e-30))
    z = torch.where(mean[:, 0] > 0, (weights * windows).sum(1) / weights.sum(1), 0)
    positive = torch.where(z > 0, z, torch.nan)
    delta = 0.15 * positive.nanquantile(0.5, 1, keepdim=True) + 0.15 * z.quantile(0.6, 1, keepdim=True)
    delta = delta + 0.20 * positive.nanmean(1, keepdim=True) + 0.015 * z.amax(1, keepdim=True)
    z = torch.where(z < delta, z * (z / delta).clamp(0.5, 1), z)
    z = torch.minimum(z.clamp(min=0), maps.flatten(1).amax(1, keepdim=True))
    low, high = z.amin(1, keepdim=True), z.amax(1, keepdim=True)
    z = (z - low) / (high - low + 1e-8)
    instance = 0.05 * repetition + 0.02 * (z > z.mean(1, keepdim=True) + 2 * z.std(1, keepdim=True, correction=0))
    energy = (instance * instance).sum(1, keepdim=True)
    alpha = ((z * instance).sum(1, keepdim=True) / energy.clamp(min=1e-30)).clamp(max=0.5)
    reduced = (z - alpha * instance).clamp(min=0)
    keep = reduced.amax(1) - reduced.amin(1) < 0.9 * (z.amax(1) - z.amin(1))
    return torch.where(keep[:, None], z, reduced).view_as(maps)


def overlay_pillow(
    values: NDArray[np.float32], image: NDArray[np.uint8], table: NDArray[np.uint8], alpha: float
) -> NDArray[np.uint8]:
    """One map [h, w] over an image [H, W, 3], with Pillow's resize and the color table [256, 3]."""
    height, width = image.shape[:2]
    resized = np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR))
    colored = table[(resized.clip(0, 1) * 255 + 0.5).astype(np.uint8)]
    return ((1 - alpha) * image + alpha * colored + 0.5).astype(np.uint8)


def overlay_torch(maps: Tensor, image: Tensor, table: Tensor, alpha: float) -> Tensor:
    """[T, h, w] over [H, W, 3], with the color table [256, 3]."""
    resized = F.interpolate(maps[:, None], image.shape[:2], mode="bilinear", align_corners=False)[:, 0]
    colored = table[(resized.clamp(0, 1) * 255 + 0.5).long()].float()
    return ((1 - alpha) * image + alpha * colored + 0.5).to(torch.uint8)
