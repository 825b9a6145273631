"""Discontinuities of the method: whether rounding may decide the result of `refine`.

The modules compare values of the map with thresholds taken from it. Where a value lies within rounding error of its
threshold, two correct implementations differ. `tolerance` detects this with the reference alone, never with the result
of the kernel under test.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from dcam_fast.config import RefineConfig
from dcam_fast.ops import reference

ROUNDING = 4e-6  # relative error of values that a float32 kernel compares; about ten times the measured one
TINY = 1e-36  # float32 products below this may be 0
PARITY = 2e-5  # tolerance of the op tests, for well-conditioned maps


def _between(values: Tensor, threshold: float, slack: float) -> bool:
    """Whether any of the values lies within `slack` of the threshold."""
    return bool(((values - threshold).abs() <= slack).any())


def _unsure_sign(values: Tensor, slack: float, config: RefineConfig) -> bool:
    """Whether a value may have either sign or underflow. Zeros are exact where all their inputs are zero."""
    smallest = TINY
    if config.denoise == "rank":  # wide windows skip ranks with smaller weights
        smallest = max(TINY, 1e-8 / ROUNDING * slack)
    if bool((values < 0).any()):
        smallest = max(TINY, slack)
    return bool(((values != 0) & (values.abs() <= smallest)).any())


def rank_is_sure(x: Tensor, side: int) -> Tensor:
    """Cells of a map [h, w] for which the float32 rank filter is well conditioned."""
    windows = reference._pad(x[None], side // 2).unfold(1, side, 1).unfold(2, side, 1).flatten(-2)[0]
    mean, largest = windows.mean(-1), windows.abs().amax(-1)
    # sigma is relative to the mean, which loses accuracy by cancellation
    cancels = (windows.amin(-1) < 0) & (mean.abs() <= 1e-2 * largest)
    underflows = (largest > 0) & (largest < 1e-15)  # of the squares of the window's values, in float32
    return ~cancels & ~underflows | (largest == 0)


def _denoised(x: Tensor, config: RefineConfig, image_side: float | None) -> Tensor | None:
    """The map after AKD; None if rounding decides it."""
    if config.denoise != "rank":
        return reference._denoise(x, config, image_side)
    if config.kernel_size is None:
        size = float(x.shape[0]) if config.size == "grid" else float(image_side or 0)
        std = x.std(correction=0).item()
        sides = {reference.kernel_size(config.step_ratio, std * (1 + e), size) for e in (-1e-12, 0, 1e-12)}
        if len(sides) > 1:
            return None
    side = config.kernel_size or sides.pop()
    return reference.rank_filter(x[None], side)[0] if bool(rank_is_sure(x, side).all()) else None


def _gated(y: Tensor, config: RefineConfig, slack: float) -> Tensor | None:
    """The map after DACG; None if rounding decides it."""
    if not config.gating or config.gating_sigma == 0:
        return y
    mean, spread = y.mean().item(), y.std(correction=0).item()
    for value, threshold in ((spread, config.gating_spread), (mean, config.gating_bright), (mean, config.gating_dim)):
        if abs(value - threshold) <= ROUNDING * max(abs(value), abs(threshold)) + slack:
            return None
    if config.denoise != "none" and _unsure_sign(y, slack, config):
        return None
    by_spread, by_bright, by_dim, otherwise = config.gating_percentiles
    dark = by_dim if mean < config.gating_dim else otherwise
    percent = by_spread if spread > config.gating_spread else by_bright if mean > config.gating_bright else dark
    positive = y[y != 0]
    if len(positive):
        zeta = max(reference._percentile(positive, percent).item(), 1e-6)
        near = (y - zeta).abs() <= max(slack, ROUNDING * zeta)
        # a value that equals the threshold does so in every implementation, unless a filter has rounded it
        exact = config.denoise == "none" and bool((y[near] == zeta).all()) and zeta > 1e-6
        if bool(near.any()) and not exact:
            return None
    return reference._gate(y, config)


def _debiasing_is_sure(z: Tensor, config: RefineConfig, repetition: float, slack: float) -> bool:
    if not config.debiasing or not bool(z.any()):
        return True
    mean, std = z.mean().item(), z.std(correction=0).item()
    if _between(z, mean + 2 * std, slack):
        return False
    if config.c_rep * repetition == 0 and not bool((z > mean + 2 * std).any()):
        return True
    free = reference._debias(z, replace(config, keep_range=0.0), repetition)
    left, span = (free.max() - free.min()).item(), (z.max() - z.min()).item()
    return abs(left - config.keep_range * span) > slack


def tolerance(x: Tensor, config: RefineConfig, *, repetition: float = 0.0, image_side: float | None = None) -> float:
    """Maximum error of a correct float32 `refine` of a float64 map; infinite if rounding decides the result.

    Args:
        x: the map [h, w] that the kernel reads; after the guided filter for a config that needs a guide.
        config: settings of the refinement.
        repetition: share of repeated tokens in the answer.
        image_side: shorter side of the image, pixels.
    """
    scale = float(x.abs().max())
    slack = ROUNDING * scale
    y = _denoised(x, config, image_side)
    if y is None:
        return math.inf
    if config.denoise != "none" and _unsure_sign(y, slack, config) and config.attenuation:
        return math.inf  # the levels are taken from the positive values
    z = _gated(y, config, slack)
    if z is None:
        return math.inf
    if config.gating and config.gating_sigma > 0 and config.attenuation and _unsure_sign(z, slack, config):
        return math.inf
    if config.attenuation:
        z = reference._attenuate(z, config)
    z = torch.minimum(z.clamp(min=0), x.max())
    span = float(z.max() - z.min())
    # normalization divides by the span
    allowed = max(PARITY, ROUNDING * scale / (span + 1e-8)) if scale > 0 else PARITY
    if span == 0 and config.denoise == "none":
        allowed = PARITY
    if allowed > 1e-2 or not _debiasing_is_sure(reference._min_max(z[None])[0], config, repetition, max(1e-5, allowed)):
        return math.inf
    return allowed
