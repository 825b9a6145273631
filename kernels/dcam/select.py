"""Percentiles of a map in registers: exact, by bisection on floats in the order of integers."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def to_keys(x, counted):
    """uint32 in the order of the floats; values not counted come last."""
    bits = x.to(tl.uint32, bitcast=True)
    keys = tl.where(bits >> 31 != 0, bits ^ 0xFFFFFFFF, bits ^ 0x80000000)
    return tl.where(counted, keys, 0xFFFFFFFF)


@triton.jit
def from_key(key):
    bits = tl.where(key >> 31 != 0, key ^ 0x80000000, key ^ 0xFFFFFFFF)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def select(a, rank_a, b, rank_b):
    """The keys of rank `rank_a` in a and `rank_b` in b (0-based): one bit a step, and both counts in one sum, which
    limits them to 65,535 keys."""
    found_a = tl.full([], 0, tl.uint32)
    found_b = tl.full([], 0, tl.uint32)
    bit = tl.full([], 0x80000000, tl.uint32)
    for _ in range(32):
        counts = tl.sum((a < (found_a | bit)).to(tl.int32) + ((b < (found_b | bit)).to(tl.int32) << 16), 0)
        found_a = tl.where((counts & 0xFFFF) <= rank_a, found_a | bit, found_a)
        found_b = tl.where((counts >> 16) <= rank_b, found_b | bit, found_b)
        bit = bit >> 1
    return found_a, found_b


@triton.jit
def position(count, percent):
    """Rank and share of a percentile among `count` values: `share` of the way from `below` to the next."""
    product = tl.maximum(count - 1, 0).to(tl.float32) * percent
    # the product is exact for percents of few digits, and so is what its floor leaves of it; a quotient would not be
    below = tl.floor(product * 0.01)
    return below.to(tl.int32), (product - below * 100) * 0.01


@triton.jit
def lerp_ranks(keys, found, below, share):
    """The value `share` of the way from rank `below`, whose key is `found`, to the next."""
    value = from_key(found)
    copies_end = tl.sum((keys <= found).to(tl.int32), 0)
    following = from_key(tl.min(tl.where(keys > found, keys, 0xFFFFFFFF), 0))
    following = tl.where(copies_end > below + 1, value, following)
    return tl.where(share > 0, value + share * (following - value), value)
