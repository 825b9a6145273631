"""Gradient-weighted pooling (docs/method.md, section 1) in two or three launches.

`weights_kernel` averages gradients over the cells, where an aggregation needs that; then each raw value is a row's sum
of products (`rows_kernel`), or, for many targets that share their activations, an entry of a matrix product
(`product_kernel`), which reads the activations once for all of them; `normalize_kernel` brings maps to 0..1. Everything
is computed in float32 after the load. A partial sum has one writer, so results do not depend on the order of execution.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from dcam_fast.ops import reference

from .tuning import launch, on_device

# In the order of reference.AGGREGATIONS, whose indexes the operators take.
POOLED: Final = tl.constexpr(0)
LAYER_CAM: Final = tl.constexpr(2)
GRAD_CAM: Final = tl.constexpr(3)
GRAD_CAM_PAPER: Final = tl.constexpr(4)
HIRES_CAM: Final = tl.constexpr(5)
ACTIVATION: Final = tl.constexpr(6)
_WEIGHTED: Final = (0, 3, 4)


@triton.jit
def relu(x):
    # NaN and infinities must reach the result: a negative infinity becomes NaN here, not 0
    return tl.where(x > 0, x, x * 0.0)


@triton.jit
def load_rows(base, cells, n, d, N, S, D, stride):
    """Cells n, channels d as float32 [n, d]: 0 beyond N and D, NaN where a cell is not one of the S rows."""
    inside = n < N
    if cells is None:
        rows = n.to(tl.int64)
        exists = inside
    else:
        rows = tl.load(cells + n, mask=inside, other=0)
        exists = inside & (rows >= 0) & (rows < S)
    x = tl.load(base + rows[:, None] * stride + d[None, :], mask=exists[:, None] & (d < D)[None, :], other=0.0)
    x = x.to(tl.float32)
    if cells is not None:
        x = tl.where((inside & ~exists)[:, None], float("nan"), x)
    return x


@triton.jit
def weights_kernel(
    G, cells, weights, N, S, D, stride_t, stride_s,
    POSITIVE: tl.constexpr, SPLIT: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """weights [T, SPLIT, D]: sums over each of SPLIT parts of the cells, divided by N. `load_weights` adds them."""
    part, t = tl.program_id(1), tl.program_id(2).to(tl.int64)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start in range(part * BLOCK_N, N, SPLIT * BLOCK_N):
        g = load_rows(G + t * stride_t, cells, start + tl.arange(0, BLOCK_N), d, N, S, D, stride_s)
        total += relu(g) if POSITIVE else g
    tl.store(weights + (t * SPLIT + part) * D + d, tl.sum(total, 0) / N, mask=d < D)


@triton.jit
def load_weights(weights, t, d, T, D, SPLIT: tl.constexpr):
    """Mean gradients of targets t, channels d, float32 [t, d]."""
    at = weights + t[:, None] * SPLIT * D + d[None, :]
    inside = (t < T)[:, None] & (d < D)[None, :]
    w = tl.load(at, mask=inside, other=0.0)
    for part in tl.static_range(1, SPLIT):
        w += tl.load(at + part * D, mask=inside, other=0.0)
    return w


@triton.jit
def rows_kernel(
    A, G, weights, cells, raw, T, N, S, D, a_stride_t, a_stride_s, g_stride_t, g_stride_s,
    RULE: tl.constexpr, SPLIT: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """raw [T, N], one target and BLOCK_N cells a program; targets vary fastest, so that shared activations are read
    from the cache by all but the first."""
    t = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        a = load_rows(A + t * a_stride_t, cells, n, d, N, S, D, a_stride_s)
        if RULE == ACTIVATION:
            total += relu(a)
        else:
            if weights is None:
                g = load_rows(G + t * g_stride_t, cells, n, d, N, S, D, g_stride_s)
            else:
                g = load_weights(weights, t + tl.arange(0, 1), d, T, D, SPLIT)
            if RULE == LAYER_CAM:
                total += relu(a) * relu(g)
            elif RULE == POOLED:
                total += relu(a) * g
            elif RULE == GRAD_CAM or RULE == HIRES_CAM:
                total += a * g
            else:
                total += relu(a * g)
    value = tl.sum(total, 1)
    value = relu(value) if RULE == GRAD_CAM or RULE == HIRES_CAM else value / D
    tl.store(raw + t * N + n, value, mask=n < N)


@triton.jit
def product_kernel(
    A, weights, cells, raw, T, N, S, D, stride_s,
    RULE: tl.constexpr, SPLIT: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """raw [T, N] where all targets share A: A [N, D] times weights [D, T], split by sign where products are clipped."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    t = (tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)
    value = tl.zeros([BLOCK_N, BLOCK_T], tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        a = load_rows(A, cells, n, d, N, S, D, stride_s)
        w = tl.trans(load_weights(weights, t, d, T, D, SPLIT))
        # ieee: a tf32 product is off by a thousandth
        if RULE == GRAD_CAM:
            value = tl.dot(a, w, value, input_precision="ieee")
        elif RULE == POOLED:
            value = tl.dot(relu(a), w, value, input_precision="ieee")
        else:
            value = tl.dot(relu(a), relu(w), value, input_precision="ieee")
            value = tl.dot(relu(-a), relu(-w), value, input_precision="ieee")
    value = relu(value) if RULE == GRAD_CAM else value / D
    tl.store(raw + t[None, :] * N + n[:, None], value, mask=(t < T)[None, :] & (n < N)[:, None])


@triton.jit
def range_of(x, N, BLOCK: tl.constexpr):
    """Minimum, maximum, and whether all N values at x are finite."""
    i = tl.arange(0, BLOCK)
    low = tl.full([BLOCK], float("inf"), tl.float32)
    high = tl.full([BLOCK], float("-inf"), tl.float32)
    nan_probe = tl.zeros([BLOCK], tl.float32)
    for start in range(0, N, BLOCK):
        inside = start + i < N
        value = tl.load(x + start + i, mask=inside, other=0.0)
        low = tl.where(inside & (value < low), value, low)
        high = tl.where(inside & (value > high), value, high)
        nan_probe += value * 0.0
    return tl.min(low, 0), tl.max(high, 0), tl.sum(nan_probe, 0) == 0


@triton.jit
def normalize_kernel(raw, out, flags, T, N, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """out [T, N] from raw [BLOCKS, T, N]: each map to 0..1; of several layers their mean, normalized again."""
    t = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    maps = out + t * N
    finite = t >= 0
    for block in tl.static_range(BLOCKS):
        x = raw + (block * T + t) * N
        low, high, good = range_of(x, N, BLOCK)
        finite = finite & good
        # a value times the rounded reciprocal of the maximum never exceeds 1
        scale = tl.div_rn(1.0, high - low + 1e-8) * (1.0 / BLOCKS)
        for start in range(0, N, BLOCK):
            inside = start + i < N
            value = (tl.load(x + start + i, mask=inside, other=0.0) - low) * scale
            if block > 0:
                value += tl.load(maps + start + i, mask=inside, other=0.0)
            tl.store(maps + start + i, tl.where(finite, value, 0.0), mask=inside)
        if BLOCKS > 1:
            tl.debug_barrier()
    if BLOCKS > 1:
        low, high, good = range_of(maps, N, BLOCK)
        scale = tl.div_rn(1.0, high - low + 1e-8)
        for start in range(0, N, BLOCK):
            inside = start + i < N
            value = (tl.load(maps + start + i, mask=inside, other=0.0) - low) * scale
            tl.store(maps + start + i, tl.where(finite, value, 0.0), mask=inside)
    if flags is not None:
        tl.store(flags + t, tl.where(finite, 0, 1))


def _channels_together(block: Tensor) -> Tensor:
    return block if block.stride(-1) == 1 or block.shape[-1] == 1 else block.contiguous()


def _raw(raw: Tensor, block: Tensor, block_gradient: Tensor, cells: Tensor | None, aggregation: int) -> None:
    """The raw values of one layer into `raw` [T, N]."""
    A, G = _channels_together(block), _channels_together(block_gradient)
    T, N = raw.shape
    S, D = G.shape[1:]
    weights, split = None, 1
    if aggregation in _WEIGHTED:
        launch_config = launch("pool_weights", targets=T)
        split = launch_config["SPLIT"]
        weights = G.new_empty((T, split, D), dtype=torch.float32)
        weights_kernel[(triton.cdiv(D, launch_config["BLOCK_D"]), split, T)](
            G, cells, weights, N, S, D, G.stride(0), G.stride(1), POSITIVE=aggregation == 0, **launch_config
        )
        launch_config = launch("pool_product", targets=T) if A.dim() == 2 else {}
        if launch_config:
            product_kernel[(triton.cdiv(N, launch_config["BLOCK_N"]), triton.cdiv(T, launch_config["BLOCK_T"]))](
                A, weights, cells, raw, T, N, S, D, A.stride(0), RULE=aggregation, SPLIT=split, **launch_config
            )
            return
    launch_config = launch("pool_rows" if weights is None else "pool_weighted_rows", channels=D)
    rows_kernel[(T, triton.cdiv(N, launch_config["BLOCK_N"]))](
        A, G, weights, cells, raw, T, N, S, D, 0 if A.dim() == 2 else A.stride(0), A.stride(-2), G.stride(0),
        G.stride(1), RULE=aggregation, SPLIT=split, **launch_config,
    )  # fmt: skip


def _pool_into(
    out: Tensor,
    flags: Tensor | None,
    activations: list[Tensor],
    gradients: list[Tensor],
    cells: Tensor | None,
    aggregation: int,
) -> None:
    if out.numel() == 0:
        return
    T, N = out.shape
    cells = None if cells is None else cells.contiguous()
    with on_device(out):
        raw = out.new_empty((len(gradients), T, N))
        for values, A, G in zip(raw, activations, gradients, strict=True):
            _raw(values, A, G, cells, aggregation)
        launch_config = launch("pool_normalize", cells=N)
        normalize_kernel[(T,)](raw, out, flags, T, N, BLOCKS=len(gradients), **launch_config)


def pool(
    activations: list[Tensor], gradients: list[Tensor], cells: Tensor | None, aggregation: int, check: bool
) -> Tensor:
    """See `dcam_fast.ops.pool`. With `check=False` it does not synchronize; a cell out of range counts as NaN."""
    T, S, _ = gradients[0].shape
    out = gradients[0].new_empty((T, S if cells is None else len(cells)), dtype=torch.float32)
    flags = torch.empty(T, dtype=torch.int32, device=out.device) if check else None
    _pool_into(out, flags, activations, gradients, cells, aggregation)
    if flags is not None and bool(flags.any()):
        raise reference.not_finite_error(activations, gradients, cells)
    return out


def pool_out(
    out: Tensor,
    flags: Tensor,
    activations: list[Tensor],
    gradients: list[Tensor],
    cells: Tensor | None,
    aggregation: int,
) -> None:
    """See `dcam_fast.ops.pool_out`."""
    _pool_into(out, flags, activations, gradients, cells, aggregation)
