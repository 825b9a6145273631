"""The benchmark cases: inputs, exact results and minimum work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dcam_fast.benchmarks.edge_maps import edge_map
from dcam_fast.benchmarks.stability import tolerance
from dcam_fast.config import RefineConfig, profile
from dcam_fast.ops import reference
from dcam_fast.ops.overlay import color_table

Scope = Literal["op", "post-processing", "explanation"]
Inputs = tuple[Tensor, ...]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OPS = ("pool", "refine", "guided_filter", "overlay", "diffusion_cam")
REPETITION = 0.2
IMAGE_SIDE = 384.0  # pixels, for profiles whose kernel size depends on it
ALPHA = 0.5  # opacity of the overlay
TOLERANCE = 2e-5  # of maps in 0..1, like in the tests
GUIDED_TOLERANCE = 1e-4  # of maps smoothed by a guide, which normalization then stretches to 0..1


@dataclass(frozen=True)
class BenchmarkCase:
    """One computation that all implementations run.

    Attributes:
        scope: the table it belongs to.
        op: name of the op.
        variant: aggregation of `pool`; profile of `refine` and `guided_filter`; both for `diffusion_cam`
            ("pooled, released").
        targets: T, the number of maps.
        grid: (h, w) in cells.
        channels: D of the activations.
        dtype: of the activations and gradients.
        image: (H, W) in pixels, for `overlay`.
        quick: part of `bench --quick`.

    >>> BenchmarkCase("op", "refine", "released", 8, (27, 27)).name
    'refine released 27x27 float32 T=8'
    """

    scope: Scope
    op: str
    variant: str
    targets: int
    grid: tuple[int, int]
    channels: int = 0
    dtype: str = "float32"
    image: tuple[int, int] | None = None
    quick: bool = False

    @property
    def name(self) -> str:
        """The unique name that `--only` searches: "pool elementwise 27x27 D=4096 bfloat16 T=16"."""
        words = [self.op, self.variant, f"{self.grid[0]}x{self.grid[1]}"]
        words += [f"D={self.channels}"] if self.channels else []
        words += [f"{self.image[1]}x{self.image[0]} px"] if self.image else []
        return " ".join([*words, self.dtype, f"T={self.targets}"])

    @property
    def cells(self) -> int:
        return math.prod(self.grid)

    @property
    def aggregation(self) -> str:
        return self.variant.split(", ")[0]

    @property
    def config(self) -> RefineConfig:
        return profile(self.variant.split(", ")[-1])

    @property
    def guided(self) -> bool:
        """Whether the guide is an input."""
        return self.op not in ("pool", "overlay") and self.config.needs_guide

    @property
    def work(self) -> tuple[float, float]:
        """(bytes that are read or written once, arithmetic operations of the formulas).

        An exponential or a comparison counts as one operation, sorting K values as K log2 K.
        """
        T, N = self.targets, self.cells
        if self.op == "overlay":
            assert self.image
            pixels = math.prod(self.image)
            return 3.0 * pixels * (T + 1) + 4 * T * N, 17.0 * T * pixels
        colors = 12.0 * N if self.guided else 0.0
        if self.op == "guided_filter":
            return 8.0 * T * N + colors, T * N * _guided_operations(self.config)
        read = (T + 1) * N * self.channels * DTYPES[self.dtype].itemsize
        refined = T * N * _refine_operations(self.config) if self.op != "pool" else 0.0
        pooled = 3.0 * T * N * self.channels
        if self.op == "refine":
            return 8.0 * T * N + colors, refined
        return read + 4.0 * T * N + colors, pooled + refined


def _refine_operations(config: RefineConfig) -> float:
    """Operations per cell: the filter with its smallest kernel, and about 30 for the other modules."""
    if config.denoise == "rank":
        return 9 * math.log2(9) + 9 * 9 + 30
    if config.denoise == "guided":
        return _guided_operations(config) + 30
    return 2 * 2 * (2 * math.ceil(3 * config.smoothing_sigma) + 1) + 30


def _guided_operations(config: RefineConfig) -> float:
    """Operations per cell: two passes of box means over four fields, and about 40 for the fit."""
    return 2 * 4 * 2 * (2 * config.guide_radius + 1) + 40


def _square(scope: Scope, op: str, variant: str, side: int, T: int, **rest: object) -> BenchmarkCase:
    return BenchmarkCase(scope, op, variant, T, (side, side), **rest)  # type: ignore[arg-type]


def all_cases(device: str) -> list[BenchmarkCase]:
    """The cases of a device. Cases that take gigabytes run on GPUs only."""
    gpu = device != "cpu"
    cases = []
    for aggregation in ("elementwise", "pooled"):
        for side in (16, 27, 48):
            for T in (1, 16, 64):
                if gpu or side * side * T <= 729 * 64:
                    quick = aggregation == "elementwise" and side == 27 and T == 1
                    cases.append(
                        _square("op", "pool", aggregation, side, T, channels=4096, dtype="bfloat16", quick=quick)
                    )
    cases.append(_square("op", "pool", "layer_cam", 27, 1, channels=4096, dtype="bfloat16"))
    cases += [_square("op", "pool", "elementwise", 27, 1, channels=1024, dtype=dtype) for dtype in DTYPES]
    for name in ("released", "unguided", "default"):
        for side in (16, 27, 48, 64):
            for T in (1, 8, 64):
                quick = name == "released" and side in (27, 48) and T in (1, 8)
                cases.append(_square("op", "refine", name, side, T, quick=quick))
    for side in (27, 48, 128):
        for T in (1, 8, 64):
            if gpu or side < 128:
                cases.append(_square("op", "guided_filter", "default", side, T, quick=side == 27 and T == 1))
    for size in ((480, 640), (1080, 1920), (2160, 3840)):
        cases.append(_square("op", "overlay", "turbo", 27, 1, image=size, quick=size[0] == 480))
    for side in (27, 48):
        for T in (1, 16, 64):
            if gpu or side * side * T <= 729 * 64:
                for name in ("released", "default"):
                    cases.append(
                        _square(
                            "post-processing",
                            "diffusion_cam",
                            f"pooled, {name}",
                            side,
                            T,
                            channels=4096,
                            dtype="bfloat16",
                            quick=side == 27 and T == 1,
                        )
                    )
    return cases


def make_map(h: int, w: int, seed: int) -> np.ndarray:
    """A realistic map: two blobs over noise; float32 in 0..1."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w] / max(h, w)
    blobs = np.exp(-((x - 0.3) ** 2 + (y - 0.6) ** 2) / 0.01) + 0.6 * np.exp(-((x - 0.7) ** 2 + (y - 0.2) ** 2) / 0.02)
    values = blobs + 0.1 * rng.random((h, w))
    return ((values - values.min()) / np.ptp(values)).astype(np.float32)


def make_guide(h: int, w: int) -> Tensor:
    """Realistic colors of cells: two surfaces, one with noise; float32 [3, h, w]."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:h, :w] / max(h, w)
    inside = ((x - 0.3) ** 2 + (y - 0.6) ** 2 < 0.04)[None]
    colors = np.where(inside, rng.random((3, 1, 1)), rng.random((3, 1, 1)) + 0.05 * rng.random((3, h, w)))
    return torch.from_numpy(colors.clip(0, 1).astype(np.float32))


def make_inputs(case: BenchmarkCase, device: str) -> Inputs:
    """Tensors of the case on the device, in the order of the op's arguments; the same in every run."""
    h, w = case.grid
    guide = (make_guide(h, w).to(device),) if case.guided else ()
    if case.op in ("refine", "guided_filter", "overlay"):
        maps = torch.from_numpy(np.stack([make_map(h, w, seed) for seed in range(case.targets)])).to(device)
        if case.op != "overlay":
            return maps, *guide
        assert case.image
        H, W = case.image
        image = torch.randint(0, 256, (H, W, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        x, y = torch.linspace(0, W, w + 1), torch.linspace(0, H, h + 1)
        columns = torch.stack([x[:-1], x[1:]], -1)[None].expand(h, w, 2)
        rows = torch.stack([y[:-1], y[1:]], -1)[:, None].expand(h, w, 2)
        boxes = torch.stack([columns[..., 0], rows[..., 0], columns[..., 1], rows[..., 1]], -1).contiguous()
        return maps, image.to(device), boxes.to(device), color_table("turbo", torch.device(device))
    random = torch.Generator(device).manual_seed(0)
    dtype = DTYPES[case.dtype]
    A = torch.randn(case.cells, case.channels, generator=random, device=device).to(dtype)
    G = torch.empty(case.targets, case.cells, case.channels, device=device, dtype=dtype)
    for target in G:
        target.copy_(torch.randn(case.cells, case.channels, generator=random, device=device))
    return A, G, *guide


_SPARSE = ("sparse", "rectangle", "signed zeros", "half zeros")


def make_sparse_inputs(case: BenchmarkCase, device: str) -> Inputs | None:
    """Inputs of the same shapes with many exact zeros of either sign; checked, not timed.

    None where rounding before the thresholds of `refine` decides the result, so that a comparison means nothing, also
    for all of a hundred maps of the case's shape.
    """
    if case.op == "diffusion_cam" or (case.op == "refine" and case.guided):
        return None
    inputs = make_inputs(case, device)
    rng = np.random.default_rng(3)
    if case.op in ("refine", "guided_filter", "overlay"):
        maps = [_sparse_map(case, rng) for _ in range(case.targets)]
        stable = [map for map in maps if map is not None]
        return (torch.stack(stable).to(device), *inputs[1:]) if len(stable) == len(maps) else None
    A, G = (tensor * (tensor.abs() > 1).to(tensor.dtype) for tensor in inputs[:2])
    return A, G, *inputs[2:]


def _sparse_map(case: BenchmarkCase, rng: np.random.Generator) -> Tensor | None:
    """A sparse map whose refinement does not depend on rounding, if one of a hundred is such a map."""
    for _ in range(100):
        map = torch.from_numpy(edge_map(_SPARSE[int(rng.integers(len(_SPARSE)))], rng, *case.grid))
        if case.op != "refine":
            return map
        allowed = tolerance(map.double(), case.config, repetition=REPETITION, image_side=IMAGE_SIDE)
        if allowed <= TOLERANCE:
            return map
    return None


def op_arguments(case: BenchmarkCase, inputs: Inputs) -> tuple[Inputs, dict[str, Any]]:
    """The arguments of the op of `dcam_fast.ops`: tensors by position, settings and the guide by keyword.

    `guide` is None where the profile has no guided filter, and missing for `pool` and `overlay`.
    """
    if case.op == "overlay":
        return inputs, {"alpha": ALPHA}
    if case.op == "pool":
        return inputs, {"aggregation": case.aggregation}
    config = case.config
    if case.op == "guided_filter":
        return inputs, {"radius": config.guide_radius, "epsilon": config.guide_epsilon}
    guide = inputs[-1] if case.guided else None
    options = {"config": config, "repetition": REPETITION, "image_side": IMAGE_SIDE, "guide": guide}
    if case.op == "refine":
        return inputs[:1], options
    return inputs[:2], {"grid": case.grid, "aggregation": case.aggregation, **options}


def exact(case: BenchmarkCase, inputs: Inputs) -> Tensor:
    """The result of the reference in float64; one target at a time, to save memory."""
    if case.op == "overlay":
        maps, image, boxes, table = inputs
        return reference.overlay(maps.double(), image, boxes, table, ALPHA)

    def refine(maps: Tensor) -> Tensor:
        config = case.config
        guide = inputs[-1].double() if case.guided else None
        if case.op == "guided_filter":
            assert guide is not None
            return reference.guided_filter(maps, guide, config.guide_radius, config.guide_epsilon)
        return reference.refine(maps, config, repetition=REPETITION, image_side=IMAGE_SIDE, guide=guide)

    if case.op in ("refine", "guided_filter"):
        return refine(inputs[0].double())
    A, G = inputs[:2]
    pooled = torch.cat([reference.pool(A.double(), g[None].double(), None, case.aggregation) for g in G])
    return pooled if case.op == "pool" else refine(pooled.reshape(-1, *case.grid))


def disagreement(case: BenchmarkCase, got: object, expected: Tensor) -> str | None:
    """Why a result is wrong; None if it is right within the tolerance of the tests."""
    dtype = torch.uint8 if case.op == "overlay" else torch.float32
    if not isinstance(got, Tensor):
        return f"a {type(got).__name__}, not a tensor"
    if got.dtype is not dtype:
        return f"dtype {_word(got.dtype)}, not {_word(dtype)}"
    if got.shape != expected.shape:
        return f"shape {list(got.shape)}, not {list(expected.shape)}"
    if got.device != expected.device:
        return f"on {got.device}, not {expected.device}"
    difference = (got.double() - expected.double()).abs()
    place = [int(index) for index in torch.unravel_index(difference.nan_to_num(torch.inf).argmax(), got.shape)]
    if not bool(difference.isfinite().all()):
        return f"not finite at {place}"
    worst = float(difference.max())
    if case.op == "overlay":  # a value between two levels may round either way
        wrong = float((difference > 0).double().mean())
        return (
            f"{wrong:.2%} of the bytes differ, by up to {worst:.0f} at {place}" if wrong > 1e-3 or worst > 8 else None
        )
    allowed = GUIDED_TOLERANCE if case.guided else TOLERANCE
    return f"off by {worst:.1e} at {place}, over {allowed:.0e}" if worst > allowed else None


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
