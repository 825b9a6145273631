"""Every op in plain PyTorch: the oracle of all tests and the last fallback.

It follows docs/method.md line by line, in the dtype of the input (float64 included), on any device. bfloat16 and
float16 are computed in float32. Names, argument order and semantics are those of `dcam_fast.ops`. Results have no
gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from dcam_fast.config import DEFAULT, UNGUIDED, RefineConfig

AGGREGATIONS: Final = ("pooled", "elementwise", "layer_cam", "grad_cam", "grad_cam_paper", "hires_cam", "activation")


def _wide(x: Tensor) -> Tensor:
    x = x.detach()
    return x if x.dtype == torch.float64 else x.float()


def _min_max(x: Tensor) -> Tensor:
    """Each map of [T, ...] to 0..1."""
    if x.numel() == 0:
        return x
    low = x.flatten(1).amin(1).reshape(-1, *[1] * (x.dim() - 1))
    shifted = x - low
    return shifted / (shifted.flatten(1).amax(1).reshape(low.shape) + 1e-8)


def _percentile(values: Tensor, percent: float) -> Tensor:
    """Linear interpolation between order statistics (NumPy's default); `values` [n] with n > 0."""
    ordered = values.sort().values
    position = (len(ordered) - 1) * percent / 100
    below = min(int(position), len(ordered) - 1)
    above = min(below + 1, len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], position - below)


# ---------------------------------------------------------------------------------------------------------------- pool


def _aggregate(A: Tensor, G: Tensor, aggregation: str) -> Tensor:
    """A [T or 1, N, D], G [T, N, D] -> [T, N]."""
    match aggregation:
        case "pooled":
            return (A * G.relu().mean(1, keepdim=True)).relu().mean(-1)
        case "elementwise":
            return (A * G).relu().mean(-1)
        case "layer_cam":
            return (A.relu() * G.relu()).mean(-1)
        case "grad_cam":
            return (A * G.mean(1, keepdim=True)).sum(-1).relu()
        case "grad_cam_paper":
            return (A * G.mean(1, keepdim=True)).relu().mean(-1)
        case "hires_cam":
            return (A * G).sum(-1).relu()
        case "activation":
            return A.relu().mean(-1).expand(G.shape[0], -1)
    raise ValueError(f"pool: aggregation must be one of {', '.join(AGGREGATIONS)}, got {aggregation!r}")


def pool(
    activations: Tensor | Sequence[Tensor],
    gradients: Tensor | Sequence[Tensor],
    cells: Tensor | None = None,
    aggregation: str = "layer_cam",
    *,
    check: bool = True,
) -> Tensor:
    """Raw maps [T, N] (docs/method.md, section 1); see `dcam_fast.ops.pool`."""
    maps, flags = pool_flagged(activations, gradients, cells, aggregation)
    if check and bool(flags.any()):
        raise not_finite_error(activations, gradients, cells)
    return maps


def not_finite_error(
    activations: Tensor | Sequence[Tensor], gradients: Tensor | Sequence[Tensor], cells: Tensor | None
) -> ValueError:
    """The error for arguments whose raw maps are not finite, naming the input at fault. Raises for wrong cells."""
    named = {"activations": activations, "gradients": gradients}
    culprits = [name for name, blocks in named.items() if not _finite_rows(blocks, cells)]
    # products of finite values may overflow
    return ValueError(f"pool: {(culprits or ['activations times gradients'])[0]} must be finite, got NaN or Inf")


def pool_flagged(
    activations: Tensor | Sequence[Tensor],
    gradients: Tensor | Sequence[Tensor],
    cells: Tensor | None = None,
    aggregation: str = "layer_cam",
) -> tuple[Tensor, Tensor]:
    """`pool` without its check: the maps, and bool [T], true for maps that NaN or Inf reached (they are zeros)."""
    blocks = list(zip(_as_list(activations), _as_list(gradients), strict=True))
    total, finite = torch.zeros(()), torch.ones((), dtype=torch.bool)
    for block, block_gradient in blocks:
        A, G = _rows(block, cells), _rows(block_gradient, cells)
        A = A if A.dim() == 3 else A[None]
        raw = _aggregate(A, G, aggregation)
        good = raw.isfinite().all(-1) & A.isfinite().all(-1).all(-1)
        if aggregation != "activation":
            good = good & G.isfinite().all(-1).all(-1)
        finite = finite.to(good.device) & good
        total = total.to(raw) + _min_max(raw)
    maps = total if len(blocks) == 1 else _min_max(total / len(blocks))
    return torch.where(finite[:, None], maps, 0), ~finite


def _as_list(blocks: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [blocks] if isinstance(blocks, Tensor) else list(blocks)


def _rows(block: Tensor, cells: Tensor | None) -> Tensor:
    """[..., S, D] -> [..., N, D]."""
    if cells is None:
        return _wide(block)
    last = block.shape[-2] - 1
    if len(cells) and not (int(cells.min()) >= 0 and int(cells.max()) <= last):
        raise ValueError(f"pool: cells must be from 0 to {last}, got {int(cells.min())} to {int(cells.max())}")
    return _wide(block[..., cells, :])


def _finite_rows(blocks: Tensor | Sequence[Tensor], cells: Tensor | None) -> bool:
    return all(bool(_rows(block, cells).isfinite().all()) for block in _as_list(blocks))


# -------------------------------------------------------------------------------------------------------------- refine


def fold_index(index: Tensor, size: int) -> Tensor:
    """Indices reflected without repeating the edge, until inside; an axis of one cell maps to 0."""
    if size == 1:
        return torch.zeros_like(index)
    index = index.remainder(2 * (size - 1))
    return torch.where(index < size, index, 2 * (size - 1) - index)


def _pad(x: Tensor, radius: int) -> Tensor:
    """[T, h, w] -> [T, h + 2 radius, w + 2 radius]."""
    rows, columns = (
        fold_index(torch.arange(-radius, size + radius, device=x.device), size) for size in (x.shape[1], x.shape[2])
    )
    return x[:, rows][:, :, columns]


def rank_filter(maps: Tensor, k: int) -> Tensor:
    """The rank-weighted Gaussian filter of docs/method.md, section 2 on maps [T, h, w], windows of k x k cells."""
    x = _wide(maps)
    if x.numel() == 0:
        return x.clone()
    K = k * k
    v = _pad(x, k // 2).unfold(1, k, 1).unfold(2, k, 1).reshape(*x.shape, K).sort(-1).values
    mean = v.mean(-1)
    sigma = v.std(-1, correction=0) / mean
    distance = torch.arange(K, device=x.device, dtype=x.dtype) - K // 2
    # the weight of the median is always 1, which is the limit for a flat window, where the formula has 0 / 0
    u = torch.exp(-(distance**2) / (2 * sigma[..., None] ** 2)).where(distance != 0, 1)
    return torch.where(mean > 0, (u * v).sum(-1) / u.sum(-1), 0)


def gaussian_smooth(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian of `sigma` cells over maps [T, h, w], cut at ceil(3 sigma), reflecting borders."""
    radius = math.ceil(3 * sigma)
    # in float64: the square of a small sigma is 0 in float32
    distances = torch.arange(-radius, radius + 1, device=maps.device, dtype=torch.float64) / sigma
    taps = torch.exp(-(distances**2) / 2)
    taps = (taps / taps.sum()).to(maps.dtype)
    padded = _pad(maps, radius)[:, None]
    return F.conv2d(F.conv2d(padded, taps.reshape(1, 1, -1, 1)), taps.reshape(1, 1, 1, -1))[:, 0]


def guided_filter(maps: Tensor, guide: Tensor, radius: int, epsilon: float) -> Tensor:
    """Maps [T, h, w] smoothed along the edges of colors [3, h, w]; see `dcam_fast.ops.guided_filter`."""
    x = _wide(maps)
    if x.numel() == 0:
        return x.clone()
    colors = guide.to(x.dtype)

    def mean(fields: Tensor) -> Tensor:
        """Over the windows of fields [..., h, w], cut at the border."""
        flat = fields.reshape(-1, 1, *fields.shape[-2:])
        return F.avg_pool2d(flat, 2 * radius + 1, 1, radius, count_include_pad=False).view(fields.shape)

    center = mean(colors)
    spread = mean(colors[:, None] * colors) - center[:, None] * center
    ridge = epsilon * torch.eye(3, device=x.device, dtype=x.dtype)
    level = mean(x)
    joint = mean(x[:, None] * colors) - level[:, None] * center
    solved = torch.linalg.solve_ex(
        spread.permute(2, 3, 0, 1) + ridge, joint.permute(2, 3, 1, 0)
    )  # does not synchronize
    slope = solved.result.permute(3, 2, 0, 1)
    offset = level - (slope * center).sum(1)
    return ((mean(slope) * colors).sum(1) + mean(offset)).clamp(min=0)


def kernel_size(step_ratio: float, std: float, size: float) -> int:
    """Side of the adaptive kernel (docs/method.md, section 2): odd, 3 to 11."""
    steps = int(min(1 / step_ratio, 32))  # more do not enlarge the kernel
    k = int(3 * (steps / 16) * min(5 * std, 2) * min(size / 512, 1.5))
    return max(3, min(k + 1 - k % 2, 11))


def _denoise(x: Tensor, config: RefineConfig, image_side: float | None) -> Tensor:
    match config.denoise:
        case "gaussian":
            return gaussian_smooth(x[None], config.smoothing_sigma)[0]
        case "rank":
            size = float(x.shape[0]) if config.size == "grid" else float(image_side or 0)
            # float64 here in every backend: k must not depend on how a sum was rounded
            std = x.double().std(correction=0).item()
            k = config.kernel_size or kernel_size(config.step_ratio, std, size)
            return rank_filter(x[None], k)[0]
    return x


def _gate(y: Tensor, config: RefineConfig) -> Tensor:
    if config.gating_sigma == 0:
        return y
    percentile_spread, percentile_bright, percentile_dim, percentile_else = config.gating_percentiles
    mean, spread = y.mean(), y.std(correction=0)
    if spread > config.gating_spread:
        percent = percentile_spread
    elif mean > config.gating_bright:
        percent = percentile_bright
    else:
        percent = percentile_dim if mean < config.gating_dim else percentile_else
    nonzero = y[y != 0]
    zeta = _percentile(nonzero, percent).clamp(min=1e-6) if len(nonzero) else torch.full_like(mean, 1e-6)
    return torch.where(y > zeta, y, gaussian_smooth(y[None], config.gating_sigma)[0])


def _attenuate(z: Tensor, config: RefineConfig) -> Tensor:
    positive = z[z > 0]
    if not len(positive):
        return torch.where(z < 1e-6, z * (z / 1e-6).clamp(config.attenuation_floor, 1), z)
    weight_median, weight_p60, weight_mean, weight_max = config.attenuation_weights
    delta = weight_median * _percentile(positive, 50) + weight_p60 * _percentile(z.flatten(), 60)
    delta = delta + weight_mean * positive.mean() + weight_max * z.max()
    return torch.where(z < delta, z * (z / delta).clamp(config.attenuation_floor, 1), z)


def _debias(z: Tensor, config: RefineConfig, repetition: float) -> Tensor:
    high = z > z.mean() + 2 * z.std(correction=0)
    instance = config.c_rep * repetition + config.c_high * high.to(z.dtype)
    energy = (instance * instance).sum()
    if energy == 0:
        return z
    alpha = ((z * instance).sum() / energy).clamp(max=config.alpha_max)
    reduced = (z - alpha * instance).clamp(min=0)
    kept = reduced.max() - reduced.min() < config.keep_range * (z.max() - z.min())
    return z if kept else reduced


def _refine_one(x: Tensor, config: RefineConfig, repetition: float, image_side: float | None) -> Tensor:
    z = _denoise(x, config, image_side)
    if config.gating:
        z = _gate(z, config)
    if config.attenuation:
        z = _attenuate(z, config)
    z = _min_max(torch.minimum(z.clamp(min=0), x.max())[None])[0]
    return _debias(z, config, repetition) if config.debiasing else z


def refine(
    maps: Tensor,
    config: RefineConfig | None = None,
    *,
    grids: Tensor | Sequence[tuple[int, int]] | None = None,
    repetition: float | Tensor = 0.0,
    image_side: float | None = None,
    guide: Tensor | None = None,
    check: bool = True,
) -> Tensor:
    """AKD, DACG, CBA and SICD (docs/method.md, sections 2 to 5) on maps [T, h, w] or a ragged batch; see
    `dcam_fast.ops.refine`."""
    if config is None:
        config = UNGUIDED if guide is None else DEFAULT
    x = _wide(maps)
    if config.needs_guide:
        if guide is None:
            raise ValueError("refine: guide must be the colors of the cells for this config, got None")
        x = guided_filter(x, guide, config.guide_radius, config.guide_epsilon)
    out = torch.zeros_like(x, memory_format=torch.contiguous_format)
    grid = [(x.shape[1], x.shape[2])] * x.shape[0] if grids is None else grids
    shapes = [(int(h), int(w)) for h, w in grid]
    if any(min(shape) < 1 for shape in shapes) or sum(h * w for h, w in shapes) != x.numel():
        raise ValueError(f"refine: grids must cover the {x.numel()} cells of maps, got {shapes}")
    ratios = [float(repetition)] * len(shapes) if not isinstance(repetition, Tensor) else repetition.tolist()
    sources, targets = (t.reshape(-1).split([h * w for h, w in shapes]) if shapes else () for t in (x, out))
    for index, (source, target, shape, ratio) in enumerate(zip(sources, targets, shapes, ratios, strict=True)):
        if bool(source.isfinite().all()):
            target.copy_(_refine_one(source.reshape(shape), config, ratio, image_side).reshape(-1))
        elif check:
            raise ValueError(f"refine: maps must be finite, got NaN or Inf in map {index}")
    return out


# ------------------------------------------------------------------------------------------------------------- overlay


def _axes(boxes: Tensor, caller: str, check: bool) -> tuple[Tensor, Tensor]:
    """Pixel boxes [h, w, 4] -> (start, end) of each column [2, w] and of each row [2, h]."""
    columns, rows = boxes[0, :, 0::2].T, boxes[:, 0, 1::2].T
    if not check:
        return columns, rows
    separable = bool((boxes[..., 0::2] == columns.T[None]).all() and (boxes[..., 1::2] == rows.T[:, None]).all())
    if not separable:
        raise ValueError(f"{caller}: boxes must be separable (x from the column, y from the row), got others")
    for axis in (columns, rows):
        # written so that a NaN fails
        if not bool((axis[0] < axis[1]).all() and (axis.sum(0).diff() > 0).all()):
            raise ValueError(f"{caller}: boxes must be ordered (x0 < x1, y0 < y1, centers ascending), got others")
    return columns, rows


def _interpolation(axis: Tensor, pixels: int, like: Tensor) -> Tensor:
    """Bilinear weights [pixels, cells] of the cells' centers at the pixels' centers, clamped beyond the outermost."""
    centers = axis.double().sum(0) / 2
    at = torch.arange(pixels, dtype=torch.float64, device=axis.device) + 0.5
    at = at.clamp(centers[0], centers[-1])
    right = torch.searchsorted(centers, at).clamp(1, max(len(centers) - 1, 1))
    weights = torch.zeros(pixels, len(centers), dtype=torch.float64, device=axis.device)
    rows = torch.arange(pixels, device=axis.device)
    if len(centers) == 1:
        weights[:, 0] = 1
        return weights.to(like.dtype)
    share = (at - centers[right - 1]) / (centers[right] - centers[right - 1])
    weights[rows, right - 1], weights[rows, right] = 1 - share, share
    return weights.to(like.dtype)


def upsample(maps: Tensor, boxes: Tensor, size: tuple[int, int], check: bool = True) -> Tensor:
    """Maps [T, h, w] at the pixels of an image of `size` (H, W) -> [T, H, W]; see `dcam_fast.ops.upsample`."""
    return _at_pixels(_wide(maps), *_axes(boxes, "upsample", check), size)


def _at_pixels(x: Tensor, columns: Tensor, rows: Tensor, size: tuple[int, int]) -> Tensor:
    return _interpolation(rows, size[0], x) @ x @ _interpolation(columns, size[1], x).T


def overlay(
    maps: Tensor, image: Tensor, boxes: Tensor, colormap: Tensor, alpha: float = 0.5, check: bool = True
) -> Tensor:
    """Maps [T, h, w] in color over the image uint8 [H, W, 3]; `colormap` is uint8 [256, 3]. See `ops.overlay`."""
    height, width = image.shape[:2]
    columns, rows = _axes(boxes, "overlay", check)
    value = _at_pixels(_wide(maps).nan_to_num(0), columns, rows, (height, width)).nan_to_num(0).clamp(0, 1)
    color = colormap[(value * 255 + 0.5).floor().long()].to(value.dtype)
    blended = ((1 - alpha) * image.to(value.dtype) + alpha * color + 0.5).floor().to(torch.uint8)
    covered_row, covered_column = _covered(rows, height), _covered(columns, width)
    return torch.where((covered_row[:, None] & covered_column)[None, ..., None], blended, image)


def _covered(axis: Tensor, pixels: int) -> Tensor:
    """Which pixels of an axis lie between the first and the last edge of its boxes."""
    at = torch.arange(pixels, device=axis.device) + 0.5
    return (at >= axis[0].min()) & (at <= axis[1].max())
