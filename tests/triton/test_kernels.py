"""The Triton backend against the reference in float64, on small shapes: run by Triton's interpreter or on a GPU."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from dcam_fast import ops
from dcam_fast.benchmarks.edge_maps import KINDS, edge_map
from dcam_fast.benchmarks.stability import tolerance
from dcam_fast.config import MIN_EPSILON, PAPER, RELEASED, UNGUIDED, RefineConfig
from dcam_fast.kernels import select, tune, tuning
from dcam_fast.ops import _backends, reference

DEVICE = next(
    name
    for name in _backends.BACKENDS["triton"].devices
    if name == "cpu" or torch.get_device_module(name).is_available()
)
pytestmark = [pytest.mark.gpu] if DEVICE != "cpu" else []
OTHERS = _backends.others("triton", DEVICE)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# One target with separate rows; rows for each target; shared activations of enough targets for the matrix product.
SHAPES = [(1, 7, 3, True), (3, 5, 37, False), (9, 13, 70, True)]
CONFIGS = {
    "released": RELEASED,
    "paper": PAPER,
    "unguided": UNGUIDED,
    "k = 5": RefineConfig(kernel_size=5),
    "adaptive to 5": RefineConfig(step_ratio=0.1, size="image", gating_sigma=0.8),
    "wide": RefineConfig(denoise="gaussian", smoothing_sigma=3.3),
    "bare": RELEASED.ablation("baseline"),
    # what debiasing would take away here is more than `keep_range` allows
    "kept": RefineConfig(denoise="none", attenuation=False, c_rep=0.0, c_high=0.3),
}


@pytest.fixture
def random():
    return torch.Generator().manual_seed(7)


def pool_inputs(random, T, S, D, shared, dtype=torch.float32):
    A = torch.randn(*([] if shared else [T]), S, D, generator=random)
    return A.to(DEVICE, dtype), torch.randn(T, S, D, generator=random).to(DEVICE, dtype)


def peaked(random, *shape):
    return torch.rand(shape, generator=random) ** 3


@pytest.mark.parametrize("aggregation", ops.AGGREGATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pool(random, aggregation, dtype):
    # tolerances: see tests/ops/test_pool.py
    tolerance = 3e-5 if aggregation in ("hires_cam", "grad_cam") else 3e-6
    for T, S, D, shared in SHAPES:
        A, G = pool_inputs(random, T, S, D, shared, dtype)
        cells = torch.randint(0, S, (S + 2,), generator=random)
        for chosen in (None, cells):
            got = ops.pool(A, G, None if chosen is None else chosen.to(DEVICE), aggregation, backend="triton")
            expected = reference.pool(A.cpu().double(), G.cpu().double(), chosen, aggregation)
            assert got.dtype == torch.float32
            assert (got.cpu() - expected).abs().max() <= tolerance


@pytest.mark.parametrize("aggregation", ops.AGGREGATIONS)
@pytest.mark.parametrize("bad", [torch.nan, -torch.inf])
def test_pool_not_finite(random, aggregation, bad):
    """A target's NaN or infinity reaches its own map only, on the path by rows and by the matrix product."""
    for T, S, D, shared in SHAPES[1:]:
        A, G = pool_inputs(random, T, S, D, shared)
        unspoiled = ops.pool(A, G, aggregation=aggregation, backend="triton")
        G[1, 4, D - 1] = bad
        out, flags = torch.full_like(unspoiled, 7), torch.full((T,), 7, dtype=torch.int32, device=DEVICE)
        ops.pool_out(out, flags, A, G, aggregation=aggregation, backend="triton")
        reached = aggregation != "activation"
        assert flags.tolist() == [int(reached and t == 1) for t in range(T)]
        kept = [t for t in range(T) if not (reached and t == 1)]
        assert torch.equal(out[kept], unspoiled[kept])
        if reached:
            assert out[1].count_nonzero() == 0
            with pytest.raises(ValueError, match=r"^pool: gradients must be finite, got NaN or Inf$"):
                ops.pool(A, G, aggregation=aggregation, backend="triton")


@pytest.mark.parametrize("aggregation", ops.AGGREGATIONS)
def test_pool_of_no_row(random, aggregation):
    """A cell out of range raises; unchecked, it reads nothing and makes the maps zeros."""
    for T, S, D, shared in SHAPES:
        A, G = pool_inputs(random, T, S, D, shared)
        for wrong in (S, -1, 2**40):
            cells = torch.tensor([0, wrong, 1], device=DEVICE)
            assert ops.pool(A, G, cells, aggregation, check=False, backend="triton").count_nonzero() == 0
        with pytest.raises(ValueError, match=f"^pool: cells must be from 0 to {S - 1}, got "):
            ops.pool(A, G, cells, aggregation, backend="triton")


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_refine(random, config):
    for grid in ((1, 1), (9, 13), (17, 33)):
        maps = peaked(random, 2, *grid)
        options = {"repetition": 0.07, "image_side": 512.0}
        got = ops.refine(maps.to(DEVICE), config, **options, backend="triton").cpu()
        assert (got - reference.refine(maps.double(), config, **options)).abs().max() <= 2e-5


@pytest.mark.parametrize("kind", KINDS)
def test_edge_maps(kind):
    options = {"repetition": 0.07, "image_side": 384.0}
    map = torch.from_numpy(edge_map(kind, np.random.default_rng(0), 12, 14))
    for config in (RELEASED, PAPER, RefineConfig(denoise="none", gating_sigma=0.8)):
        got = ops.refine(map[None].to(DEVICE), config, **options, backend="triton").cpu()
        assert got.isfinite().all()
        off = (got.double() - reference.refine(map[None].double(), config, **options)).abs().max()
        assert off <= tolerance(map.double(), config, **options)


def test_adaptive_kernel(random):
    """In one batch some maps get a kernel of 3 and others one of 5."""
    maps = peaked(random, 4, 12, 12) * torch.tensor([1.0, 0.3, 1.0, 0.1])[:, None, None]
    config = RefineConfig(step_ratio=0.1, size="image", attenuation=False, debiasing=False)
    sides = {reference.kernel_size(config.step_ratio, one.double().std(correction=0).item(), 800) for one in maps}
    assert sides == {3, 5}
    got = ops.refine(maps.to(DEVICE), config, image_side=800, backend="triton").cpu()
    assert (got - reference.refine(maps.double(), config, image_side=800)).abs().max() <= 2e-5


@pytest.mark.parametrize("config", [UNGUIDED, RELEASED, PAPER], ids=["unguided", "released", "paper"])
def test_largest_grid(random, config):
    maps = peaked(random, 1, 64, 64)
    got = ops.refine(maps.to(DEVICE), config, repetition=0.1, image_side=384, backend="triton").cpu()
    assert (got - reference.refine(maps.double(), config, repetition=0.1, image_side=384)).abs().max() <= 2e-5


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_refine_not_finite(random, config):
    maps = peaked(random, 3, 7, 9).to(DEVICE)
    unspoiled = ops.refine(maps, config, image_side=512, check=False, backend="triton")
    for bad in (torch.nan, torch.inf, -torch.inf):
        maps[1, 6, 8] = bad
        got = ops.refine(maps, config, image_side=512, check=False, backend="triton")
        assert got[1].count_nonzero() == 0
        assert torch.equal(got[[0, 2]], unspoiled[[0, 2]])
    with pytest.raises(ValueError, match=r"^refine: maps must be finite, got NaN or Inf in map 1$"):
        ops.refine(maps, config, image_side=512, backend="triton")


@pytest.mark.parametrize("config", [UNGUIDED, RELEASED], ids=["unguided", "released"])
def test_refine_in_place(random, config):
    """`out` may be the maps themselves; any other overlap raises."""
    room = torch.cat([peaked(random, 3, 16, 17), torch.zeros(1, 16, 17)]).to(DEVICE)
    expected = ops.refine(room[:3], config, backend="triton")
    again = room.clone()
    with pytest.raises(ValueError, match=r"^refine: out must not overlap maps, got memory of both$"):
        ops.refine(room[:3], config, out=room[1:], backend="triton")
    ops.refine(again[:3], config, out=again[:3], backend="triton")
    assert torch.equal(again[:3], expected)


REFUSALS = [
    (
        lambda: ops.rank_filter(torch.zeros(1, 8, 8, device=DEVICE), 7, backend="triton"),
        f"rank_filter: k must be at most 5 with backend 'triton', got 7; {OTHERS} can",
    ),
    (
        lambda: ops.refine(torch.zeros(1, 8, 8, device=DEVICE), RefineConfig(kernel_size=9), backend="triton"),
        f"refine: the kernel that config may ask for must be at most 5 with backend 'triton', got 9; {OTHERS} can",
    ),
    (
        lambda: ops.refine(
            torch.zeros(1, 8, 8, device=DEVICE),
            RefineConfig(step_ratio=0.02, size="image"),
            image_side=1024,
            backend="triton",
        ),
        f"refine: the kernel that config may ask for must be at most 5 with backend 'triton', got 11; {OTHERS} can",
    ),
    (
        lambda: ops.refine(torch.zeros(1, 65, 64, device=DEVICE), backend="triton"),
        "refine: maps must be of at most 4096 cells with backend 'triton', got 4160; reference can",
    ),
    (
        lambda: ops.refine(torch.zeros(70, device=DEVICE), grids=[(5, 7), (5, 8)], backend="triton"),
        "refine: grids must cover the 70 cells of maps, got [(5, 7), (5, 8)]",
    ),
]


@pytest.mark.parametrize(("call", "text"), REFUSALS, ids=[text for _, text in REFUSALS])
def test_refusals(call, text):
    with pytest.raises(ValueError, match="must") as error:
        call()
    assert str(error.value) == text


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_guided_filter(random, dtype):
    for grid, radius in (((1, 7), 3), ((3, 5), 4), ((9, 13), 1)):  # small: the interpreter takes each cell of a window
        maps, guide = peaked(random, 2, *grid).to(dtype), torch.rand(3, *grid, generator=random)
        guide[:, :, grid[1] // 2 :] = torch.rand(3, 1, 1, generator=random)
        got = ops.guided_filter(maps.to(DEVICE), guide.to(DEVICE), radius, 1e-4, backend="triton").cpu()
        # tolerance: see tests/ops/test_guided.py
        assert (got - reference.guided_filter(maps.double(), guide, radius, 1e-4)).abs().max() <= 2e-5


def test_guided_filter_with_equal_channels(random):
    maps, guide = torch.rand(2, 6, 7, generator=random), torch.rand(1, 6, 7, generator=random).repeat(3, 1, 1)
    got = ops.guided_filter(maps.to(DEVICE), guide.to(DEVICE), 2, MIN_EPSILON, backend="triton").cpu()
    assert (got - reference.guided_filter(maps.double(), guide, 2, MIN_EPSILON)).abs().max() <= 5e-6


def test_guided_filter_not_finite(random):
    maps, guide = peaked(random, 3, 8, 9).to(DEVICE), torch.rand(3, 8, 9, generator=random).to(DEVICE)
    unspoiled = ops.guided_filter(maps, guide, 2, backend="triton")
    maps[1, 4, 4] = torch.nan
    got = ops.guided_filter(maps, guide, 2, backend="triton")
    assert torch.equal(got[[0, 2]], unspoiled[[0, 2]])
    assert got[1, 4, 4].isnan()
    assert ops.guided_filter(maps[:0], guide, backend="triton").shape == (0, 8, 9)


def boxes_of(h, w, cell, left, top):
    x0, y0 = left + torch.arange(w) * cell, top + torch.arange(h) * cell
    y, x = torch.meshgrid(y0, x0, indexing="ij")
    return torch.stack([x, y, x + cell, y + cell], -1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (9, 13), (40, 2)], ids=str)
def test_overlay(random, grid, dtype):
    maps = (torch.rand(2, *grid, generator=random) * 1.6 - 0.3).to(dtype)
    boxes = boxes_of(*grid, 3.07, -4.2, 2.3)
    image = torch.randint(0, 256, (31, 43, 3), generator=random, dtype=torch.uint8)
    table = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, 3)
    here = [tensor.to(DEVICE) for tensor in (maps, image, boxes, table)]
    got = ops.upsample(here[0], here[2], (31, 43), backend="triton").cpu()
    assert (got - reference.upsample(maps.double(), boxes, (31, 43))).abs().max() <= 5e-7
    blended = ops.overlay(*here, 0.37, backend="triton").cpu()
    expected = reference.overlay(maps.double(), image, boxes, table, 0.37)
    # a value at the edge of a level may round to the next one
    difference = (blended.int() - expected.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() <= 1e-3


def test_boxes(random):
    boxes = boxes_of(3, 4, 5.0, 0.0, 0.0).to(DEVICE)
    maps = torch.rand(1, 3, 4, generator=random).to(DEVICE)
    sheared, flipped, flat, unknown = (boxes.clone() for _ in range(4))
    sheared[1, 2, 0] += 1
    flipped = flipped.flip(1)
    flat[:, 1, 2] = flat[:, 1, 0]
    unknown[0, 0, 0] = torch.nan
    separable = "separable (x from the column, y from the row)"
    ordered = "ordered (x0 < x1, y0 < y1, centers ascending)"
    for changed, need in ((sheared, separable), (flipped, ordered), (flat, ordered), (unknown, separable)):
        with pytest.raises(ValueError, match="boxes must be") as error:
            ops.upsample(maps, changed, (15, 20), backend="triton")
        assert str(error.value) == f"upsample: boxes must be {need}, got others"


def test_torch_compile(random):
    """One graph, with the results of the eager call."""
    maps = peaked(random, 2, 5, 6).to(DEVICE)

    def after_and_before(x):
        return ops.refine(x * 0.5, backend="triton") + 1

    compiled = torch.compile(after_and_before, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(maps), after_and_before(maps))


def test_nothing():
    """No targets: nothing is launched, and the results have their shapes."""
    maps, image = torch.zeros(0, 3, 4, device=DEVICE), torch.zeros(9, 8, 3, dtype=torch.uint8, device=DEVICE)
    boxes = boxes_of(3, 4, 2.0, 0.0, 0.0).to(DEVICE)
    assert ops.pool(torch.zeros(5, 6, device=DEVICE), torch.zeros(0, 5, 6, device=DEVICE), backend="triton").shape == (
        0,
        5,
    )
    assert ops.refine(maps, backend="triton").shape == (0, 3, 4)
    assert ops.refine(maps.flatten(), grids=[], backend="triton").shape == (0,)
    assert ops.rank_filter(maps, 3, backend="triton").shape == (0, 3, 4)
    assert ops.upsample(maps, boxes, (9, 8), backend="triton").shape == (0, 9, 8)
    assert ops.overlay(maps, image, boxes, backend="triton").shape == (0, 9, 8, 3)


@triton.jit
def percentile_kernel(values, count, percent, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    keys = select.to_keys(tl.load(values + i, mask=i < count, other=0.0), i < count)
    below, share = select.position(count, percent)
    found, again = select.select(keys, below, keys, below)
    tl.store(out, select.lerp_ranks(keys, found, below, share))
    tl.store(out + 1, select.lerp_ranks(keys, again, below, share))


def test_percentile(random):
    """Exact where a percentile is a value, and to a rounding between two; values of both signs, and copies."""
    spread = torch.randn(41, generator=random) * 10.0 ** torch.randint(-20, 20, (41,), generator=random)
    for values in (spread, spread.round(), torch.rand(21, generator=random).mul(3).floor(), torch.tensor([-2.5])):
        for percent in (0.0, 12.5, 50.0, 60.0, 85.0, 100.0):
            out = torch.empty(2, device=DEVICE)
            percentile_kernel[(1,)](values.to(DEVICE), len(values), percent, out, BLOCK=64)
            expected = np.percentile(values.double().numpy(), percent)
            exact = (len(values) - 1) * percent % 100 == 0
            assert out[0] == out[1]
            assert abs(out[0].item() - expected) <= (0 if exact else 3e-7 * values.abs().max().item())


def test_table():
    """Every kernel has a class for any shape, every entry is a candidate of the tuner's, and an unknown shape fails."""
    table = json.loads(tuning.TABLE.read_text())
    assert set(table["kernels"]) == set(tune.CANDIDATES)
    for kernel, entries in table["kernels"].items():
        assert entries[-1]["up_to"] == {}
        for entry in entries:
            if entry["launch"]:
                assert set(entry["launch"]) == set(tune.CANDIDATES[kernel])
    assert tuning.launch("pool_product", targets=7) == {}
    assert tuning.launch("pool_product", targets=8)["BLOCK_T"] == 16
    assert tuning.launch("refine", cells=4096)["num_warps"] >= tuning.launch("refine", cells=64)["num_warps"]


def test_tuner_needs_a_gpu(monkeypatch):
    blind = replace(_backends.BACKENDS["triton"], unavailable_reason=lambda: "torch finds no GPU")
    monkeypatch.setitem(_backends.BACKENDS, "triton", blind)
    text = r"^tune: needs a GPU that Triton serves, but none is available \(torch finds no GPU\)$"
    with pytest.raises(SystemExit, match=text):
        tune.main()
