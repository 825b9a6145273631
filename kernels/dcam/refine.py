"""The four modules of refinement (docs/method.md, sections 2 to 5) in one launch, one program per map.

A map stays in registers. Where a filter needs neighbors, the result's memory serves as scratch. Supported are maps of
up to 4,096 cells and rank filters of 3 or 5 cells. `check_kernel` and `check_cells` raise for others on the host,
before any launch and without synchronizing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from dcam_fast.config import RefineConfig
from dcam_fast.ops import reference
from dcam_fast.ops._backends import others

from .select import lerp_ranks, position, select, to_keys
from .tuning import launch, on_device
from .windows import gaussian, rank_chunk

MAX_CELLS: Final = 4096
MAX_KERNEL: Final = 5
ADAPTIVE: Final = tl.constexpr(0)
# Settings that the kernel takes as they are.
_NUMBERS: Final = (
    "gating_spread", "gating_bright", "gating_dim",
    "percentile_spread", "percentile_bright", "percentile_dim", "percentile_else",
    "weight_median", "weight_p60", "weight_mean", "weight_max", "attenuation_floor",
    "c_rep", "c_high", "alpha_max", "keep_range",
)  # fmt: skip


@triton.jit
def moments(x, inside, count):
    """Mean and population standard deviation."""
    mean = tl.sum(tl.where(inside, x, 0.0), 0) / count
    return mean, tl.sqrt_rn(tl.sum(tl.where(inside, (x - mean) * (x - mean), 0.0), 0) / count)


@triton.jit
def is_wide(x, inside, cells, height, steps, image_side):
    """Whether the adaptive kernel is 5 cells wide, not 3. In float64 on every backend, so that rounding of a sum does
    not decide."""
    wide = tl.where(inside, x, 0.0).to(tl.float64)
    mean = tl.sum(wide, 0) / cells
    std = tl.sqrt(tl.sum(tl.where(inside, (wide - mean) * (wide - mean), 0.0), 0) / cells)
    size = tl.where(image_side > 0, tl.cast(image_side, tl.float64), tl.cast(height, tl.float64))
    by_std, by_size = tl.minimum(5 * std, 2.0), tl.minimum(size / 512, 1.5)
    return tl.cast(steps, tl.float64) * by_std * by_size >= 4


@triton.jit
def gated(
    y, target, i, inside, height, width, radius, inverse,
    gating_spread, gating_bright, gating_dim,
    percentile_spread, percentile_bright, percentile_dim, percentile_else, FOLD: tl.constexpr,
):  # fmt: skip
    """Section 3."""
    mean, spread = moments(y, inside, height * width)
    percent = tl.where(mean < gating_dim, percentile_dim, percentile_else)
    percent = tl.where(mean > gating_bright, percentile_bright, percent)
    percent = tl.where(spread > gating_spread, percentile_spread, percent)
    nonzero = inside & (y != 0)
    count = tl.sum(nonzero.to(tl.int32), 0)
    below, share = position(count, percent)
    keys = to_keys(y, nonzero)
    found, _ = select(keys, below, keys, below)
    zeta = tl.where(count > 0, tl.maximum(lerp_ranks(keys, found, below, share), 1e-6), 1e-6)
    tl.debug_barrier()
    tl.store(target + i, y, mask=inside)
    tl.debug_barrier()
    return tl.where(y > zeta, y, gaussian(target, target, i, inside, height, width, radius, inverse, FOLD))


@triton.jit
def attenuated(z, inside, cells, weight_median, weight_p60, weight_mean, weight_max, attenuation_floor):
    """Section 4, but for its normalization."""
    positive = inside & (z > 0)
    count = tl.sum(positive.to(tl.int32), 0)
    median_below, median_share = position(count, 50.0)
    p60_below, p60_share = position(cells, 60.0)
    positive_keys, keys = to_keys(z, positive), to_keys(z, inside)
    median, p60 = select(positive_keys, median_below, keys, p60_below)
    delta = weight_median * lerp_ranks(positive_keys, median, median_below, median_share)
    delta += weight_p60 * lerp_ranks(keys, p60, p60_below, p60_share)
    delta += weight_mean * (tl.sum(tl.where(positive, z, 0.0), 0) / count)
    delta += weight_max * tl.max(tl.where(inside, z, float("-inf")), 0)
    delta = tl.where(count > 0, delta, 1e-6)
    return tl.where(z < delta, z * tl.minimum(tl.maximum(z / delta, attenuation_floor), 1.0), z)


@triton.jit
def min_and_range(x, inside):
    lowest = tl.min(tl.where(inside, x, float("inf")), 0)
    return lowest, tl.max(tl.where(inside, x, float("-inf")), 0) - lowest


@triton.jit
def debiased(z, inside, cells, level_all, c_high, alpha_max, keep_range):
    """Section 5."""
    mean, std = moments(z, inside, cells)
    instance = tl.where(inside, level_all + tl.where(z > mean + 2 * std, c_high, 0.0), 0.0)
    energy = tl.sum(instance * instance, 0)
    alpha = tl.minimum(tl.sum(z * instance, 0) / energy, alpha_max)
    reduced = tl.maximum(z - alpha * instance, 0.0)
    _, span = min_and_range(z, inside)
    _, reduced_span = min_and_range(reduced, inside)
    return tl.where((energy == 0) | (reduced_span < keep_range * span), z, reduced)


@triton.jit(do_not_specialize=["height", "width", "smoothing_radius", "gating_radius"])
def refine_kernel(
    maps, out, flags, ratios, table, height, width, repetition,
    steps, image_side, smoothing_radius, smoothing_inverse,
    gating_spread, gating_bright, gating_dim, percentile_spread, percentile_bright, percentile_dim, percentile_else,
    gating_radius, gating_inverse, weight_median, weight_p60, weight_mean, weight_max,
    attenuation_floor, c_rep, c_high, alpha_max, keep_range,
    DENOISE: tl.constexpr, KERNEL: tl.constexpr, GATING: tl.constexpr, ATTENUATION: tl.constexpr,
    DEBIASING: tl.constexpr, FOLD: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Map t of [T, height, width], or with `table` int64 [T, 3] of (height, width, first cell); `out` may be `maps`
    unless KERNEL is used. `flags` [T], where given, says which maps were not finite and became zeros."""
    t = tl.program_id(0).to(tl.int64)
    if table is None:
        first = t * height * width
    else:
        height = tl.load(table + 3 * t).to(tl.int32)
        width = tl.load(table + 3 * t + 1).to(tl.int32)
        first = tl.load(table + 3 * t + 2)
    source, target, cells = maps + first, out + first, height * width
    i = tl.arange(0, BLOCK)
    inside = i < cells
    x = tl.load(source + i, mask=inside, other=0.0).to(tl.float32)
    finite = tl.sum(x * 0.0, 0) == 0
    ceiling = tl.max(tl.where(inside, x, float("-inf")), 0)
    z = x
    if DENOISE == "gaussian":
        z = gaussian(source, target, i, inside, height, width, smoothing_radius, smoothing_inverse, FOLD)
    if DENOISE == "rank":
        wide = KERNEL == 5
        if KERNEL == ADAPTIVE:
            wide = is_wide(x, inside, cells, height, steps, image_side)
        for start in range(0, cells, CHUNK):
            if KERNEL == ADAPTIVE:
                if wide:
                    rank_chunk(source, target, start, height, width, FOLD, 5, CHUNK)
                else:
                    rank_chunk(source, target, start, height, width, FOLD, 3, CHUNK)
            else:
                rank_chunk(source, target, start, height, width, FOLD, KERNEL, CHUNK)
        tl.debug_barrier()
        z = tl.load(target + i, mask=inside, other=0.0)
    if GATING:
        z = gated(
            z, target, i, inside, height, width, gating_radius, gating_inverse,
            gating_spread, gating_bright, gating_dim,
            percentile_spread, percentile_bright, percentile_dim, percentile_else, FOLD,
        )  # fmt: skip
    if ATTENUATION:
        z = attenuated(z, inside, cells, weight_median, weight_p60, weight_mean, weight_max, attenuation_floor)
    z = tl.minimum(tl.maximum(z, 0.0), ceiling)
    lowest, span = min_and_range(z, inside)
    # a value times the rounded reciprocal of the maximum never exceeds 1
    z = (z - lowest) * tl.div_rn(1.0, span + 1e-8)
    if DEBIASING:
        ratio = repetition
        if ratios is not None:
            ratio = tl.load(ratios + t).to(tl.float32)
        z = debiased(z, inside, cells, c_rep * ratio, c_high, alpha_max, keep_range)
    tl.debug_barrier()
    tl.store(target + i, tl.where(finite, z, 0.0), mask=inside)
    if flags is not None:
        tl.store(flags + t, tl.where(finite, 0, 1))


@triton.jit(do_not_specialize=["height", "width"])
def rank_filter_kernel(maps, out, height, width, FOLD: tl.constexpr, SIDE: tl.constexpr, CHUNK: tl.constexpr):
    """CHUNK cells of map t of [T, height, width]."""
    first = tl.program_id(0).to(tl.int64) * height * width
    rank_chunk(maps + first, out + first, tl.program_id(1) * CHUNK, height, width, FOLD, SIDE, CHUNK)


def check_kernel(caller: str, argument: str, widest: int, device: str) -> None:
    """Raise for rank filters that this backend has no sorting network for."""
    if widest > MAX_KERNEL:
        raise ValueError(
            f"{caller}: {argument} must be at most {MAX_KERNEL} with backend 'triton', got {widest}; "
            f"{others('triton', device)} can"
        )


def check_cells(cells: int) -> None:
    """Raise for maps that do not fit one program."""
    if cells > MAX_CELLS:
        raise ValueError(
            f"refine: maps must be of at most {MAX_CELLS} cells with backend 'triton', got {cells}; reference can"
        )


@functools.lru_cache(maxsize=1024)
def _kernel(config: RefineConfig, rows: int, image_side: float, device: str) -> int:
    """Side of the rank filter; 0: 3 or 5, by the spread of each map. Raises if a map may need a wider one."""
    if config.denoise != "rank":
        return 3
    size = image_side if config.size == "image" else float(rows)
    widest = config.kernel_size or reference.kernel_size(config.step_ratio, math.inf, size)
    check_kernel("refine", "the kernel that config may ask for", widest, device)
    return widest if config.kernel_size or widest == 3 else 0


@functools.lru_cache(maxsize=256)
def _config(packed: tuple[float, ...]) -> RefineConfig:
    return RefineConfig.from_packed(packed)


@functools.lru_cache(maxsize=256)
def _arguments(config: RefineConfig) -> dict[str, Any]:
    """What the kernel takes from the config alone."""

    def taps(sigma: float) -> tuple[int, float]:
        # a sigma under 0.001 weighs no neighbor, and its inverse would overflow
        return math.ceil(3 * sigma), 1 / (2 * max(sigma, 1e-3) ** 2) if sigma else 0.0

    smoothing_radius, smoothing_inverse = taps(config.smoothing_sigma)
    gating_radius, gating_inverse = taps(config.gating_sigma)
    numbers = config.numbers()
    return {
        "steps": 3 * int(min(1 / config.step_ratio, 32)) / 16,
        "smoothing_radius": smoothing_radius,
        "smoothing_inverse": smoothing_inverse,
        "gating_radius": gating_radius,
        "gating_inverse": gating_inverse,
        **{name: numbers[name] for name in _NUMBERS},
        "DENOISE": config.denoise,
        # without a Gaussian DACG changes nothing
        "GATING": config.gating and config.gating_sigma > 0,
        "ATTENUATION": config.attenuation,
        "DEBIASING": config.debiasing,
    }


def _shapes(maps: Tensor, grids: Tensor | None) -> list[tuple[int, int]]:
    """(height, width) of each map, or of all of them."""
    if grids is None:
        return [(maps.shape[1], maps.shape[2])]
    shapes = [(height, width) for height, width in grids.tolist()]
    if any(min(shape) < 1 for shape in shapes) or sum(h * w for h, w in shapes) != maps.numel():
        raise ValueError(f"refine: grids must cover the {maps.numel()} cells of maps, got {shapes}")
    return shapes


def _table(shapes: list[tuple[int, int]], device: torch.device) -> Tensor:
    rows, first = [], 0
    for height, width in shapes:
        rows.append((height, width, first))
        first += height * width
    return torch.tensor(rows, dtype=torch.int64).to(device, non_blocking=True)


def refine_out(
    out: Tensor,
    maps: Tensor,
    config: Sequence[float],
    grids: Tensor | None,
    repetition: float,
    repetitions: Tensor | None,
    image_side: float,
    check: bool,
) -> None:
    """See `dcam_fast.ops.refine`; the result goes to `out`."""
    settings = _config(tuple(config))
    shapes = _shapes(maps, grids)
    count = len(maps) if grids is None else len(shapes)
    if count == 0:
        return
    largest = max(h * w for h, w in shapes)
    check_cells(largest)
    kernel = _kernel(settings, max(h for h, _ in shapes), image_side, maps.device.type)
    arguments = _arguments(settings)
    # A map is read before it is overwritten, but for rank windows, and as long as it lies where its result goes.
    shared = out.untyped_storage().data_ptr() == maps.untyped_storage().data_ptr()
    apart = not shared or (settings.denoise != "rank" and out.data_ptr() == maps.data_ptr() and maps.is_contiguous())
    source = maps.contiguous() if apart else maps.clone(memory_format=torch.contiguous_format)
    ratios = None if repetitions is None else repetitions.contiguous()
    flags = torch.empty(count, dtype=torch.int32, device=maps.device) if check else None
    radius = max(arguments["smoothing_radius"], arguments["gating_radius"], MAX_KERNEL // 2)
    with on_device(out):
        refine_kernel[(count,)](
            source, out, flags, ratios, None if grids is None else _table(shapes, maps.device), *shapes[0], repetition,
            image_side=image_side if settings.size == "image" else 0.0, KERNEL=kernel,
            FOLD=radius >= min(min(shape) for shape in shapes), BLOCK=max(triton.next_power_of_2(largest), 16),
            **arguments, **launch("refine", cells=largest),
        )  # fmt: skip
    if flags is not None and bool(flags.any()):
        raise ValueError(f"refine: maps must be finite, got NaN or Inf in map {int(flags.nonzero()[0])}")


def refine(
    maps: Tensor,
    config: Sequence[float],
    grids: Tensor | None,
    repetition: float,
    repetitions: Tensor | None,
    image_side: float,
    check: bool,
) -> Tensor:
    """See `dcam_fast.ops.refine`."""
    out = maps.new_empty(maps.shape, dtype=torch.float32)
    refine_out(out, maps, config, grids, repetition, repetitions, image_side, check)
    return out


def rank_filter(maps: Tensor, k: int) -> Tensor:
    """See `dcam_fast.ops.rank_filter`."""
    check_kernel("rank_filter", "k", k, maps.device.type)
    count, height, width = maps.shape
    out = maps.new_empty(maps.shape, dtype=torch.float32)
    if count:
        launch_config = launch("rank_filter")
        with on_device(out):
            rank_filter_kernel[(count, triton.cdiv(height * width, launch_config["CHUNK"]))](
                maps.contiguous(), out, height, width, FOLD=k // 2 >= min(height, width), SIDE=k, **launch_config
            )
    return out
