"""The guided filter (docs/method.md, section 2): statistics of the image, the fit of every window to the maps, and the
mean of the fits around every cell. One launch each, one lane per cell."""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tuning import launch, on_device

STATISTICS: Final = 9  # of a window's colors: their mean, and their covariance as L D L^T
FIT: Final = 4  # the slope of each color, then the offset


@triton.jit
def window_size(at, radius, cells):
    """Number of cells of one axis in a window around `at`."""
    return tl.minimum(at + radius, cells - 1) - tl.maximum(at - radius, 0) + 1


@triton.jit
def is_inside(inside, y, x, height, width):
    return inside & (y >= 0) & (y < height) & (x >= 0) & (x < width)


@triton.jit(do_not_specialize=["height", "width", "radius"])
def guide_kernel(guide, statistics, height, width, radius, epsilon, BLOCK: tl.constexpr):
    """Float32 [9, h, w] of colors [3, h, w]. In float64, because the sums nearly cancel in a window of one color."""
    cells = height * width
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside, row, column = i < cells, i // width, i % width
    zero = tl.zeros([BLOCK], tl.float64)
    r, g, b, rr, rg, rb, gg, gb, bb = zero, zero, zero, zero, zero, zero, zero, zero, zero
    for y in range(-radius, radius + 1):
        for x in range(-radius, radius + 1):
            mask = is_inside(inside, row + y, column + x, height, width)
            at = guide + i + y * width + x
            red = tl.load(at, mask=mask, other=0.0).to(tl.float64)
            green = tl.load(at + cells, mask=mask, other=0.0).to(tl.float64)
            blue = tl.load(at + 2 * cells, mask=mask, other=0.0).to(tl.float64)
            r += red
            g += green
            b += blue
            rr += red * red
            rg += red * green
            rb += red * blue
            gg += green * green
            gb += green * blue
            bb += blue * blue
    count = (window_size(row, radius, height) * window_size(column, radius, width)).to(tl.float64)
    r, g, b = r / count, g / count, b / count
    rr, rg, rb = rr / count - r * r + epsilon, rg / count - r * g, rb / count - r * b
    gg, gb, bb = gg / count - g * g + epsilon, gb / count - g * b, bb / count - b * b + epsilon
    l_rg, l_rb = rg / rr, rb / rr
    d_g, under = gg - l_rg * rg, gb - l_rb * rg
    l_gb = under / d_g
    factors = (l_rg, l_rb, l_gb, 1 / rr, 1 / d_g, 1 / (bb - l_rb * rb - l_gb * under))
    out = statistics + i
    tl.store(out, r.to(tl.float32), mask=inside)
    tl.store(out + cells, g.to(tl.float32), mask=inside)
    tl.store(out + 2 * cells, b.to(tl.float32), mask=inside)
    for factor in tl.static_range(6):
        tl.store(out + (3 + factor) * cells, factors[factor].to(tl.float32), mask=inside)


@triton.jit(do_not_specialize=["height", "width", "radius"])
def fit_kernel(maps, guide, statistics, fit, height, width, radius, BLOCK: tl.constexpr):
    """Float32 [T, 4, h, w]: the slopes of a map along the colors of each window, and its offset."""
    cells = height * width
    t = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside, row, column = i < cells, i // width, i % width
    zero = tl.zeros([BLOCK], tl.float32)
    r, g, b, level = zero, zero, zero, zero
    for y in range(-radius, radius + 1):
        for x in range(-radius, radius + 1):
            mask = is_inside(inside, row + y, column + x, height, width)
            at = i + y * width + x
            value = tl.load(maps + t * cells + at, mask=mask, other=0.0).to(tl.float32)
            r += value * tl.load(guide + at, mask=mask, other=0.0)
            g += value * tl.load(guide + cells + at, mask=mask, other=0.0)
            b += value * tl.load(guide + 2 * cells + at, mask=mask, other=0.0)
            level += value
    count = (window_size(row, radius, height) * window_size(column, radius, width)).to(tl.float32)
    known = statistics + i
    mean_r = tl.load(known, mask=inside, other=0.0)
    mean_g = tl.load(known + cells, mask=inside, other=0.0)
    mean_b = tl.load(known + 2 * cells, mask=inside, other=0.0)
    level = level / count
    l_rg = tl.load(known + 3 * cells, mask=inside, other=0.0)
    l_rb = tl.load(known + 4 * cells, mask=inside, other=0.0)
    l_gb = tl.load(known + 5 * cells, mask=inside, other=0.0)
    r = r / count - level * mean_r
    g = g / count - level * mean_g - l_rg * r
    b = b / count - level * mean_b - l_rb * r - l_gb * g
    along_b = tl.load(known + 8 * cells, mask=inside, other=0.0) * b
    along_g = tl.load(known + 7 * cells, mask=inside, other=0.0) * g - l_gb * along_b
    along_r = tl.load(known + 6 * cells, mask=inside, other=0.0) * r - l_rg * along_g - l_rb * along_b
    out = fit + 4 * t * cells + i
    tl.store(out, along_r, mask=inside)
    tl.store(out + cells, along_g, mask=inside)
    tl.store(out + 2 * cells, along_b, mask=inside)
    tl.store(out + 3 * cells, level - along_r * mean_r - along_g * mean_g - along_b * mean_b, mask=inside)


@triton.jit(do_not_specialize=["height", "width", "radius"])
def apply_kernel(fit, guide, out, height, width, radius, BLOCK: tl.constexpr):
    """Float32 [T, h, w]: the mean of the fits around each cell, applied to its color."""
    cells = height * width
    t = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside, row, column = i < cells, i // width, i % width
    zero = tl.zeros([BLOCK], tl.float32)
    r, g, b, offset = zero, zero, zero, zero
    for y in range(-radius, radius + 1):
        for x in range(-radius, radius + 1):
            mask = is_inside(inside, row + y, column + x, height, width)
            at = fit + 4 * t * cells + i + y * width + x
            r += tl.load(at, mask=mask, other=0.0)
            g += tl.load(at + cells, mask=mask, other=0.0)
            b += tl.load(at + 2 * cells, mask=mask, other=0.0)
            offset += tl.load(at + 3 * cells, mask=mask, other=0.0)
    count = (window_size(row, radius, height) * window_size(column, radius, width)).to(tl.float32)
    value = r * tl.load(guide + i, mask=inside, other=0.0) + g * tl.load(guide + cells + i, mask=inside, other=0.0)
    value = (value + b * tl.load(guide + 2 * cells + i, mask=inside, other=0.0) + offset) / count
    # not a maximum: a NaN stays one, so that refine finds it
    tl.store(out + t * cells + i, tl.where(value < 0, 0.0, value), mask=inside)


def guided_filter(maps: Tensor, guide: Tensor, radius: int, epsilon: float) -> Tensor:
    """See `dcam_fast.ops.guided_filter`."""
    count, height, width = maps.shape
    out = maps.new_empty(maps.shape, dtype=torch.float32)
    if count == 0:
        return out
    source, colors = maps.contiguous(), guide.contiguous()
    statistics = out.new_empty(STATISTICS, height, width)
    fit = out.new_empty(count, FIT, height, width)
    launch_config = launch("guided_filter")
    chunks = triton.cdiv(height * width, launch_config["BLOCK"])
    with on_device(out):
        guide_kernel[(chunks,)](colors, statistics, height, width, radius, epsilon, **launch_config)
        fit_kernel[(count, chunks)](source, colors, statistics, fit, height, width, radius, **launch_config)
        apply_kernel[(count, chunks)](fit, colors, out, height, width, radius, **launch_config)
    return out
