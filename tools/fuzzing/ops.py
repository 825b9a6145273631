"""Random calls of the ops and of `RefineConfig`, compared with the reference in float64.

Tolerances are those of the tests, larger where the method magnifies rounding. Where rounding decides between cells,
there is no tolerance, and only the range is checked (`benchmarks/stability.py`).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcam_fast import ops
from dcam_fast.benchmarks.edge_maps import KINDS, edge_map
from dcam_fast.benchmarks.stability import PARITY, rank_is_sure, tolerance
from dcam_fast.config import KERNEL_SIZES, PROFILES, RefineConfig
from dcam_fast.ops import reference

UNDECIDED: Counter[str] = Counter()  # calls of a target of which only the range was checked
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SUBNORMALS = 1e-43  # some steps of float32's


def pick(rng: np.random.Generator, choices: Any) -> Any:
    """A random item, without conversion by NumPy."""
    choices = list(choices)
    return choices[int(rng.integers(len(choices)))]


def random_map(rng: np.random.Generator, height: int, width: int) -> Tensor:
    return torch.from_numpy(edge_map(pick(rng, KINDS), rng, height, width))


def random_grid(rng: np.random.Generator) -> tuple[int, int]:
    most = pick(rng, (3, 9, 20, 34))
    return int(rng.integers(1, most + 1)), int(rng.integers(1, most + 1))


def random_config(rng: np.random.Generator) -> RefineConfig:
    """Any valid config without a guide, often with values at the ends of the ranges."""

    def number(low: float, high: float) -> float:
        return pick(rng, (low, high, float(rng.uniform(low, high)), float(rng.uniform(low, high))))

    if rng.random() < 0.3:
        return pick(rng, [config for config in PROFILES.values() if not config.needs_guide])
    return RefineConfig(
        denoise=pick(rng, ("none", "rank", "gaussian")),
        kernel_size=pick(rng, (None, *KERNEL_SIZES)),
        step_ratio=pick(rng, (0.01, 0.1, 0.5, 1.0, 5e-324, 1e300, float(rng.uniform(0.01, 2)))),
        size=pick(rng, ("grid", "image")),
        smoothing_sigma=pick(rng, (5e-324, 0.1, number(0.2, 5.0))),
        gating=bool(rng.random() < 0.7),
        gating_spread=number(0.0, 1.0),
        gating_bright=number(0.0, 1.0),
        gating_dim=number(0.0, 1.0),
        gating_percentiles=tuple(number(0.0, 100.0) for _ in range(4)),  # type: ignore[arg-type]
        gating_sigma=pick(rng, (0.0, 0.3, number(0.1, 5.0))),
        attenuation=bool(rng.random() < 0.7),
        attenuation_weights=tuple(number(0.0, pick(rng, (1.0, 1000.0))) for _ in range(4)),  # type: ignore[arg-type]
        attenuation_floor=number(0.0, 1.0),
        debiasing=bool(rng.random() < 0.7),
        c_rep=number(0.0, 1.0),
        c_high=number(0.0, 1.0),
        alpha_max=number(0.0, 1.0),
        keep_range=number(0.0, 1.0),
    )


def assert_close(got: Tensor, expected: Tensor, allowed: float | Tensor, what: object) -> None:
    assert got.shape == expected.shape, f"shape {list(got.shape)}, not {list(expected.shape)}"
    assert bool(got.isfinite().all()), f"not finite: {what}"
    off = (got.double() - expected).abs()
    assert bool((off <= allowed).all()), f"off by {float(off.max()):.3g}: {what}"


def assert_in_range(got: Tensor, what: object) -> None:
    assert bool(got.isfinite().all()), f"not finite: {what}"
    if got.numel():
        assert float(got.min()) >= 0, f"minimum {float(got.min())}: {what}"
        assert float(got.max()) <= 1 + 1e-6, f"maximum {float(got.max())}: {what}"


def refine(rng: np.random.Generator) -> None:
    count = int(rng.integers(0, 4))
    grid = random_grid(rng)
    maps = torch.stack([random_map(rng, *grid) for _ in range(count)]) if count else torch.empty(0, *grid)
    config = random_config(rng)
    options = {"repetition": pick(rng, (0.0, 1.0, float(rng.random()))), "image_side": float(rng.integers(1, 2000))}
    got = ops.refine(maps, config, **options)
    assert_in_range(got, config)
    for map, result in zip(maps, got, strict=True):
        allowed = tolerance(map.double(), config, **options)
        if math.isinf(allowed):
            UNDECIDED["refine"] += 1
            continue
        assert_close(result[None], reference.refine(map[None].double(), config, **options), allowed, (config, options))
    form = int(rng.integers(4))
    if form == 0:
        again = ops.refine(maps, config, **options, out=maps.clone())
    elif form == 1:
        room = maps.clone()
        again = ops.refine(room, config, **options, out=room)
    elif form == 2:
        again = ops.refine(maps.flatten(), config, grids=[grid] * count, **options).view_as(maps)
    else:
        again = ops.refine(maps.mT.contiguous().mT, config, **options)
    assert torch.equal(got, again), f"another answer in form {form}: {config}"


def refine_array(rng: np.random.Generator) -> None:
    map, config = random_map(rng, *random_grid(rng)), random_config(rng)
    options = {"repetition": float(rng.random()), "image_side": float(rng.integers(1, 2000))}
    got = ops.refine_array(map.numpy(), config, **options)
    assert np.array_equal(got, ops.refine(map[None], config, **options)[0].numpy()), f"another result: {config}"


def rank_filter(rng: np.random.Generator) -> None:
    map, k = random_map(rng, *random_grid(rng)), pick(rng, KERNEL_SIZES)
    got = ops.rank_filter(map[None], k)
    sure = rank_is_sure(map.double(), k)
    UNDECIDED["rank_filter"] += not bool(sure.any())
    allowed = torch.where(sure, PARITY * float(map.abs().max()) + SUBNORMALS, math.inf)
    assert_close(got, reference.rank_filter(map[None].double(), k), allowed, k)


def rank_filter_array(rng: np.random.Generator) -> None:
    map, k = random_map(rng, *random_grid(rng)), pick(rng, KERNEL_SIZES)
    assert np.array_equal(ops.rank_filter_array(map.numpy(), k), ops.rank_filter(map[None], k)[0].numpy())


def guided_filter(rng: np.random.Generator) -> None:
    grid = random_grid(rng)
    map = random_map(rng, *grid)
    colors = [torch.full(grid, float(rng.random())), torch.from_numpy(rng.random(grid, np.float32))]
    guide = torch.stack([pick(rng, (*colors, colors[1].round())) for _ in range(3)])
    radius, epsilon = int(rng.integers(1, 9)), float(10 ** rng.uniform(-5, 6))
    got = ops.guided_filter(map[None], guide, radius, epsilon)
    expected = reference.guided_filter(map[None].double(), guide, radius, epsilon)
    allowed = PARITY * float(map.abs().max()) + SUBNORMALS
    assert_close(got, expected, allowed, (radius, epsilon))
    assert float(got.min()) >= 0


def _operands(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    T, S, D = (int(rng.integers(low, high)) for low, high in ((1, 5), (1, 40), (1, 70)))
    shared, dtype = bool(rng.random() < 0.5), pick(rng, DTYPES)
    A, G = (
        torch.stack([random_map(rng, S, D) for _ in range(count)]).clamp(-1e6, 1e6) for count in (1 if shared else T, T)
    )
    if dtype is torch.float16:
        A, G = A.clamp(-2, 2), G.clamp(-2, 2)
    return (A[0] if shared else A).to(dtype), G.to(dtype)


def _pool_error(A: Tensor, G: Tensor, aggregation: str) -> tuple[Tensor, Tensor]:
    """The normalized map of one layer, and the tolerance for float32 sums [T]."""
    A = A if A.dim() == 3 else A[None]
    raw = reference._aggregate(A, G, aggregation)
    weights = G.abs()
    if aggregation in ("pooled", "grad_cam", "grad_cam_paper"):
        weights = weights.mean(1, keepdim=True)
    if aggregation == "activation":
        weights = torch.ones_like(weights)
    terms = (A.abs() * weights).sum(-1)
    if aggregation not in ("grad_cam", "hires_cam"):
        terms = terms / A.shape[-1]
    span = raw.amax(-1) - raw.amin(-1) + 1e-8
    return reference._min_max(raw), 1e-6 + 4e-6 * terms.amax(-1) / span


def pool(rng: np.random.Generator) -> None:
    A, G = _operands(rng)
    aggregation = pick(rng, ops.AGGREGATIONS)
    S = G.shape[1]
    cells = torch.from_numpy(rng.integers(0, S, int(rng.integers(1, S + 4)))) if rng.random() < 0.5 else None
    blocks = 1 if rng.random() < 0.7 else 2
    got = ops.pool([A] * blocks, [G] * blocks, cells, aggregation)
    assert_in_range(got, aggregation)
    wide = [t.double() if cells is None else t.double()[..., cells, :] for t in (A, G)]
    expected = reference.pool([wide[0]] * blocks, [wide[1]] * blocks, None, aggregation)
    map, allowed = _pool_error(wide[0], wide[1], aggregation)
    if blocks == 2:  # normalized again
        allowed = 1e-6 + 3 * allowed / (map.amax(-1) - map.amin(-1) + 1e-8)
    assert_close(got, expected, allowed[:, None], (aggregation, A.dtype, blocks))
    out, flags = torch.full_like(got, 7), torch.full((len(got),), 7, dtype=torch.int32)
    ops.pool_out(out, flags, [A] * blocks, [G] * blocks, cells, aggregation)
    assert torch.equal(out, got)
    assert not flags.any()


def diffusion_cam(rng: np.random.Generator) -> None:
    A, G = _operands(rng)
    aggregation, config, S = pick(rng, ops.AGGREGATIONS), random_config(rng), G.shape[1]
    h, w = random_grid(rng)
    cells = torch.from_numpy(rng.integers(0, S, h * w))
    options = {"repetition": float(rng.random()), "image_side": float(rng.integers(1, 2000))}
    got = ops.diffusion_cam(A, G, (h, w), cells, aggregation, config, **options)
    assert_in_range(got, config)
    raw = ops.pool(A, G, cells, aggregation).reshape(-1, h, w)
    assert torch.equal(got, ops.refine(raw, config, **options)), f"not pool and refine: {aggregation}, {config}"


def _boxes(rng: np.random.Generator, h: int, w: int) -> Tensor:
    """Separable and ordered boxes, with gaps and overlaps, inside and outside of the image."""

    def axis(cells: int) -> np.ndarray:
        steps = rng.uniform(0.1, 5, cells).cumsum() + rng.uniform(-5, 5)
        half = rng.uniform(0.05, 4, cells)
        return np.stack([steps - half, steps + half], -1).astype(np.float32)

    x, y = axis(w), axis(h)
    boxes = np.empty((h, w, 4), np.float32)
    boxes[..., 0::2], boxes[..., 1::2] = x[None], y[:, None]
    return torch.from_numpy(boxes)


def upsample(rng: np.random.Generator) -> None:
    h, w = (int(size) for size in rng.integers(1, 10, 2))
    size = int(rng.integers(1, 40)), int(rng.integers(1, 40))
    map, boxes = random_map(rng, h, w), _boxes(rng, h, w)
    got = ops.upsample(map[None], boxes, size)
    assert_close(
        got, reference.upsample(map[None].double(), boxes, size), 5e-7 * float(map.abs().max()) + SUBNORMALS, size
    )


def overlay(rng: np.random.Generator) -> None:
    h, w = (int(size) for size in rng.integers(1, 10, 2))
    size = int(rng.integers(1, 40)), int(rng.integers(1, 40))
    map, boxes = random_map(rng, h, w), _boxes(rng, h, w)
    image = torch.from_numpy(rng.integers(0, 256, (*size, 3), np.uint8))
    table = torch.arange(256, dtype=torch.uint8)[:, None].repeat(1, 3)
    alpha = pick(rng, (0.0, 1.0, float(rng.random())))
    got = ops.overlay(map[None], image, boxes, table, alpha)
    expected = reference.overlay(map[None].double(), image, boxes, table, alpha)
    # a value at the edge of a level may round to the next, and so may a color; large maps have coarse zeros
    values = reference.upsample(map[None].double(), boxes, size)
    slack = 1e-6 * float(map.abs().max())
    sure = ((values.clamp(0, 1) - (values + slack).clamp(0, 1)).abs() <= 1e-3)[..., None]
    off = (got.int() - expected.int()).abs() * sure
    assert int(off.max()) <= 1, f"off by {int(off.max())} of alpha {alpha}"


def repetition_ratio(rng: np.random.Generator) -> None:
    ids = [int(token) for token in rng.integers(0, 8, int(rng.integers(0, 20)))]
    expected = sum(ids.count(token) > 1 for token in set(ids)) / max(len(ids), 1)
    for form in (ids, torch.tensor(ids, dtype=torch.int64), np.array(ids, np.int64), iter(ids)):
        assert ops.repetition_ratio(form) == expected


WRONG = ("3", "", None, float("nan"), float("inf"), -1, -0.5, 2.5, True, [], [1, 2], {"a": 1}, "none", 10**400, 1e300)


def config(rng: np.random.Generator) -> None:
    """A config as JSON, unchanged or with one or two random fields."""
    start = pick(rng, [*PROFILES.values(), random_config(rng)])
    fields = json.loads(json.dumps(dataclasses.asdict(start)))
    changed = [pick(rng, fields) for _ in range(int(rng.integers(0, 3)))]
    for name in changed:
        value = pick(rng, (*WRONG, fields[name], float(rng.normal()), int(rng.integers(-2, 14))))
        if isinstance(fields[name], list) and rng.random() < 0.7:
            fields[name] = [*fields[name][:3], value]
        else:
            fields[name] = value
    try:
        made = RefineConfig(**fields)
    except ValueError as error:
        if not any(f"RefineConfig: {name} must be " in str(error) for name in changed):
            raise
        return
    again = RefineConfig(**json.loads(json.dumps(dataclasses.asdict(made))))
    assert made == again
    assert hash(made) == hash(again)
    assert all(math.isfinite(number) for number in made.packed)
    assert changed or made == start
    if made.needs_guide:
        made = dataclasses.replace(made, denoise="none")
    assert RefineConfig.from_packed(made.packed).packed == made.packed
    map = torch.from_numpy(edge_map("dense", rng, 6, 7))[None]
    assert_in_range(ops.refine(map, made, repetition=0.5, image_side=384.0), made)


TARGETS: dict[str, Callable[[np.random.Generator], None]] = {
    "pool": pool,
    "refine": refine,
    "refine_array": refine_array,
    "rank_filter": rank_filter,
    "rank_filter_array": rank_filter_array,
    "guided_filter": guided_filter,
    "diffusion_cam": diffusion_cam,
    "upsample": upsample,
    "overlay": overlay,
    "repetition_ratio": repetition_ratio,
    "config": config,
}
