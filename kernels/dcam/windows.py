"""Filters over windows of cells: the rank-weighted mean by a sorting network on tensors, and the Gaussian."""

from __future__ import annotations

from typing import Final

import triton
import triton.language as tl


def _batcher(n: int) -> tuple[int, ...]:
    """Odd-even merge sort for n values (Batcher 1968): low and high of each comparator in turn."""
    pairs: list[int] = []
    p = 1
    while p < n:
        k = p
        while k:
            for j in range(k % p, n - k, 2 * k):
                for i in range(j, min(j + k, n - k)):
                    if i // (2 * p) == (i + k) // (2 * p):
                        pairs += [i, i + k]
            k //= 2
        p *= 2
    return tuple(pairs)


_NETWORK_9: Final = tl.constexpr(_batcher(9))
_NETWORK_25: Final = tl.constexpr(_batcher(25))
_SIZE_9: Final = tl.constexpr(len(_batcher(9)) // 2)
_SIZE_25: Final = tl.constexpr(len(_batcher(25)) // 2)


@triton.jit
def compare_exchange(v, low: tl.constexpr, high: tl.constexpr):
    a = v[low]
    b = v[high]
    return v[:low] + (tl.minimum(a, b),) + v[low + 1 : high] + (tl.maximum(a, b),) + v[high + 1 :]


@triton.jit
def sort(v, SIDE: tl.constexpr):
    """A tuple of 9 or 25 tensors, in order at every lane."""
    if SIDE == 3:
        for c in tl.static_range(_SIZE_9):
            v = compare_exchange(v, _NETWORK_9[2 * c], _NETWORK_9[2 * c + 1])
    else:
        for c in tl.static_range(_SIZE_25):
            v = compare_exchange(v, _NETWORK_25[2 * c], _NETWORK_25[2 * c + 1])
    return v


@triton.jit
def rank_mean(v, SIDE: tl.constexpr):
    """The rank-weighted Gaussian mean of sorted windows (docs/method.md, section 2)."""
    K: tl.constexpr = SIDE * SIDE
    M: tl.constexpr = K // 2
    # from the middle outwards: windows with the same values give bitwise identical results, in any order
    mean = v[M]
    for d in tl.static_range(1, M + 1):
        mean += v[M - d] + v[M + d]
    mean = mean * (1.0 / K)
    squares = (v[M] - mean) * (v[M] - mean)
    for d in tl.static_range(1, M + 1):
        squares += (v[M - d] - mean) * (v[M - d] - mean) + (v[M + d] - mean) * (v[M + d] - mean)
    flat = squares == 0
    # 1 / (2 sigma^2) with sigma = std / mean; a flat window returns its median
    steep = mean * mean * (0.5 * K) / tl.where(flat, 1.0, squares)
    weights = squares * 0.0 + 1.0
    total = v[M]
    for d in tl.static_range(1, M + 1):
        u = tl.where(flat, 0.0, tl.exp(steep * (-d * d)))
        weights += u + u
        total += u * (v[M - d] + v[M + d])
    return tl.where(mean > 0, tl.div_rn(total, weights), 0.0)


@triton.jit
def fold(index, size, FOLD: tl.constexpr):
    """Reflection without repeating the edge; with FOLD as often as it takes, for windows wider than the map."""
    if FOLD:
        period = tl.maximum(2 * (size - 1), 1)
        index = (index + 16 * period) % period  # 16: more than the largest radius
        return tl.where(index < size, index, period - index)
    index = tl.where(index < 0, -index, index)
    return tl.where(index < size, index, 2 * (size - 1) - index)


@triton.jit
def rank_chunk(source, target, start, height, width, FOLD: tl.constexpr, SIDE: tl.constexpr, CHUNK: tl.constexpr):
    """Cells start..start + CHUNK of one map, filtered, from `source` to `target`."""
    R: tl.constexpr = SIDE // 2
    i = start + tl.arange(0, CHUNK)
    inside = i < height * width
    row, column = i // width, i % width
    window = ()
    for y in tl.static_range(-R, R + 1):
        line = source + fold(row + y, height, FOLD) * width
        for x in tl.static_range(-R, R + 1):
            value = tl.load(line + fold(column + x, width, FOLD), mask=inside, other=0.0)
            window = window + (value.to(tl.float32),)  # type: ignore[assignment]
    tl.store(target + i, rank_mean(sort(window, SIDE), SIDE), mask=inside)


@triton.jit
def gaussian(source, scratch, i, inside, height, width, radius, inverse, FOLD: tl.constexpr):
    """All cells i of one map, columns first; `inverse` is 1 / (2 sigma^2). `scratch`, a map of float32, may be the
    source: it is written when that has been read."""
    row, column = i // width, i % width
    total = 0.0
    z = tl.zeros(i.shape, tl.float32)
    for d in range(-radius, radius + 1):
        weight = tl.exp(-(d * d) * inverse)
        at = source + fold(row + d, height, FOLD) * width + column
        z += weight * tl.load(at, mask=inside, other=0.0).to(tl.float32)
        total += weight
    tl.debug_barrier()
    tl.store(scratch + i, z / total, mask=inside)
    tl.debug_barrier()
    z = tl.zeros(i.shape, tl.float32)
    for d in range(-radius, radius + 1):
        weight = tl.exp(-(d * d) * inverse)
        at = scratch + row * width + fold(column + d, width, FOLD)
        z += weight * tl.load(at, mask=inside, other=0.0)
    return z / total
