"""guided_filter, and refine by it, on every backend against the reference in float64; colors of cells by hand."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcam_fast import ops
from dcam_fast.config import DEFAULT, MAX_RADIUS, MIN_EPSILON, PAPER
from dcam_fast.images import cell_colors, grid_boxes
from dcam_fast.ops import reference

GRIDS = [(1, 1), (1, 6), (7, 1), (2, 2), (3, 5), (9, 13), (16, 16), (17, 33), (27, 27), (48, 48)]
# Float32 against float64: in a window of one color the slopes are sums that cancel (1e-7) over epsilon, times colors
# that hardly differ there. Measured: 9e-6 for epsilon 1e-4 on a grid of six cells, 1e-6 on real ones; 8e-5 for 1e-5.
TOLERANCE = 2e-5


def tolerance(epsilon: float) -> float:
    return max(TOLERANCE, TOLERANCE * 1e-4 / epsilon)


def scene(seed: int, h: int, w: int) -> torch.Tensor:
    """Colors of an image with flat parts, edges and noise."""
    random = torch.Generator().manual_seed(seed)
    colors = torch.rand(3, 1, 1, generator=random).repeat(1, h, w)
    colors[:, h // 3 :, w // 4 :] = torch.rand(3, 1, 1, generator=random)
    colors[:, : h // 2, w // 2 :] += 0.1 * torch.rand(3, h // 2, w - w // 2, generator=random)
    return colors.clamp(max=1)


def by_hand(map: np.ndarray, guide: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """The guided filter as its paper writes it, window by window, with a regression in each."""
    h, w = map.shape
    total, count = np.zeros((h, w)), np.zeros((h, w))
    for y in range(h):
        for x in range(w):
            rows = slice(max(y - radius, 0), y + radius + 1)
            columns = slice(max(x - radius, 0), x + radius + 1)
            values, colors = map[rows, columns].ravel(), guide[:, rows, columns].reshape(3, -1)
            covariance = np.cov(colors, bias=True) if values.size > 1 else np.zeros((3, 3))
            joint = ((colors - colors.mean(1, keepdims=True)) * (values - values.mean())).mean(1)
            slope = np.linalg.solve(covariance + epsilon * np.eye(3), joint)
            fit = slope @ (guide[:, rows, columns].reshape(3, -1) - colors.mean(1, keepdims=True)) + values.mean()
            total[rows, columns] += fit.reshape(total[rows, columns].shape)
            count[rows, columns] += 1
    return np.maximum(total / count, 0)


@pytest.mark.parametrize("radius", [1, 2, 4])
@pytest.mark.parametrize("grid", [(1, 4), (6, 5), (9, 13)], ids=str)
def test_reference(grid, radius):
    random = np.random.default_rng(3)
    map, guide = random.random(grid) ** 3, scene(1, *grid)
    expected = by_hand(map, guide.double().numpy(), radius, 1e-3)
    got = reference.guided_filter(torch.from_numpy(map)[None], guide, radius, 1e-3)[0].numpy()
    assert np.abs(got - expected).max() <= 1e-10


@pytest.mark.parametrize("radius", [1, 3, MAX_RADIUS])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_guided_filter(backend, random, grid, radius):
    maps, guide = torch.rand(3, *grid, generator=random) ** 3, scene(2, *grid)
    for epsilon in (MIN_EPSILON, 1e-4, 1e-2):
        got = ops.guided_filter(
            maps.to(backend.device), guide.to(backend.device), radius, epsilon, backend=backend.backend
        )
        assert got.dtype == torch.float32
        assert (got.cpu() - reference.guided_filter(maps.double(), guide, radius, epsilon)).abs().max() <= tolerance(
            epsilon
        )


@pytest.mark.parametrize("equal", [(0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 0, 1)], ids=str)
def test_equal_channels(backend, random, equal):
    """Gray images: the covariance of the colors is singular but for epsilon."""
    maps, channels = torch.rand(2, 9, 13, generator=random), torch.rand(2, 9, 13, generator=random)
    guide = channels[list(equal)]
    got = ops.guided_filter(
        maps.to(backend.device), guide.to(backend.device), 4, MIN_EPSILON, backend=backend.backend
    ).cpu()
    assert (got - reference.guided_filter(maps.double(), guide, 4, MIN_EPSILON)).abs().max() <= 5e-6


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    T=st.integers(0, 4),
    h=st.integers(1, 26),
    w=st.integers(1, 26),
    radius=st.integers(1, MAX_RADIUS),
    epsilon=st.floats(1e-5, 1),
)
def test_random(seed, T, h, w, radius, epsilon):
    maps, guide = torch.rand(T, h, w, generator=torch.Generator().manual_seed(seed)), scene(seed, h, w)
    got = ops.guided_filter(maps, guide, radius, epsilon)
    assert got.shape == maps.shape
    assert torch.allclose(
        got.double(), reference.guided_filter(maps.double(), guide, radius, epsilon), atol=tolerance(epsilon)
    )


@pytest.mark.parametrize("T", [0, 1, 64])
def test_batch(backend, random, T):
    """Maps do not see each other, and strided and half-precision ones are read as they are."""
    maps, guide = (
        torch.rand(T, 12, 30, generator=random).to(backend.device)[:, :, ::2],
        scene(5, 12, 15).to(backend.device),
    )
    got = ops.guided_filter(maps, guide, backend=backend.backend)
    for one, result in zip(maps, got, strict=True):
        assert torch.equal(ops.guided_filter(one[None], guide, backend=backend.backend)[0], result)
    half = ops.guided_filter(maps.bfloat16(), guide, backend=backend.backend)
    assert torch.equal(half, ops.guided_filter(maps.bfloat16().float(), guide, backend=backend.backend))


def test_follows_edges(backend):
    """A blot that straddles an edge of the image stays on its side of it, and a constant map stays what it is."""
    guide = torch.zeros(3, 9, 12, device=backend.device)
    guide[0, :, 6:] = 1
    map = torch.zeros(1, 9, 12, device=backend.device)
    map[0, 4, 5] = 1
    got = ops.guided_filter(map, guide, 2, 1e-4, backend=backend.backend)[0]
    assert got[:, :6].sum() > 100 * got[:, 6:].sum()
    flat = torch.full((2, 9, 12), 0.3, device=backend.device)
    torch.testing.assert_close(ops.guided_filter(flat, guide, 2, 1e-4, backend=backend.backend), flat)


@pytest.mark.parametrize("grid", [(9, 13), (16, 16), (27, 27)], ids=str)
def test_refine(backend, random, grid):
    maps, guide = torch.rand(3, *grid, generator=random) ** 3, scene(4, *grid)
    got = ops.refine(
        maps.to(backend.device), DEFAULT, guide=guide.to(backend.device), repetition=0.1, backend=backend.backend
    )
    filtered = reference.guided_filter(maps.double(), guide, DEFAULT.guide_radius, DEFAULT.guide_epsilon)
    expected = reference.refine(filtered, replace(DEFAULT, denoise="none"), repetition=0.1)
    assert torch.equal(reference.refine(maps.double(), DEFAULT, repetition=0.1, guide=guide), expected)
    assert (got.cpu() - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_not_finite(backend, random, bad):
    maps, guide = torch.rand(4, 10, 12, generator=random).to(backend.device), scene(6, 10, 12).to(backend.device)
    unspoiled = ops.refine(maps, DEFAULT, guide=guide, backend=backend.backend)
    maps[2, 3, 4] = bad
    with pytest.raises(ValueError, match=r"^refine: maps must be finite, got NaN or Inf in map 2$"):
        ops.refine(maps, DEFAULT, guide=guide, backend=backend.backend)
    got = ops.refine(maps, DEFAULT, guide=guide, check=False, backend=backend.backend)
    assert got[2].count_nonzero() == 0
    assert torch.equal(got[[0, 1, 3]], unspoiled[[0, 1, 3]])


MAPS, GUIDE = torch.rand(2, 5, 7), torch.rand(3, 5, 7)
ERRORS = [
    (lambda: ops.guided_filter(MAPS[0], GUIDE), "guided_filter: maps must be [T, h, w] with h, w > 0, got [5, 7]"),
    (
        lambda: ops.guided_filter(MAPS, GUIDE[:, :4]),
        "guided_filter: guide must be float32 [3, 5, 7] on cpu, got torch.float32 [3, 4, 7] on cpu",
    ),
    (
        lambda: ops.guided_filter(MAPS, GUIDE.double()),
        "guided_filter: guide must be float32 [3, 5, 7] on cpu, got torch.float64 [3, 5, 7] on cpu",
    ),
    (lambda: ops.guided_filter(MAPS, GUIDE, 9), "guided_filter: radius must be from 1 to 8 cells, got 9"),
    (lambda: ops.guided_filter(MAPS, GUIDE, 2.0), "guided_filter: radius must be from 1 to 8 cells, got 2.0"),
    (lambda: ops.guided_filter(MAPS, GUIDE, 3, 0), "guided_filter: epsilon must be from 1e-05 to 1e+06, got 0"),
    (
        lambda: reference.refine(MAPS, DEFAULT),
        "refine: guide must be the colors of the cells for this config, got None",
    ),
    (
        lambda: ops.refine(MAPS, DEFAULT),
        "refine: guide must be the colors of the cells for this config (dcam_fast.images.cell_colors), got None",
    ),
    (
        lambda: ops.refine(MAPS.flatten(), DEFAULT, grids=[(5, 7), (5, 7)], guide=GUIDE),
        "refine of a flat batch: config must not need a guide, which only refine and guided_filter take, "
        "got denoise='guided'",
    ),
    (
        lambda: ops.refine_array(MAPS[0].numpy(), DEFAULT),
        "refine_array: config must not need a guide, which only refine and guided_filter take, got denoise='guided'",
    ),
    (
        lambda: ops.diffusion_cam(torch.ones(4, 8), torch.ones(1, 4, 8), (2, 2), config=DEFAULT),
        "diffusion_cam: config must not need a guide, which only refine and guided_filter take, got denoise='guided'",
    ),
]


@pytest.mark.parametrize(("call", "text"), ERRORS, ids=[text.split(",")[0] for _, text in ERRORS])
def test_errors(call, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        call()


def test_guide_is_unused_without_need(random):
    maps = torch.rand(2, 6, 6, generator=random)
    assert torch.equal(ops.refine(maps, PAPER, image_side=384, guide=None), ops.refine(maps, PAPER, image_side=384))


def test_cell_colors():
    """Means over the pixels of each box; gaps are left out, boxes outside the image take the nearest pixel."""
    image = np.zeros((5, 8, 3), np.uint8)
    image[:2, :3] = (255, 0, 51)
    image[2:, 4:] = (0, 102, 0)
    x, y = torch.tensor([[0.0, 3], [4, 7.6], [20, 24]]), torch.tensor([[-3.0, -1], [0, 2], [1.4, 5]])
    boxes = torch.stack(
        [torch.stack([torch.stack([x[c, 0], y[r, 0], x[c, 1], y[r, 1]]) for c in range(3)]) for r in range(3)]
    )
    got = cell_colors(image, boxes)
    assert got.dtype == torch.float32
    assert got.shape == (3, 3, 3)
    red, dark, mixed = [1.0, 0, 0.2], [0.0, 0, 0], [0.25, 0, 0.05]
    assert torch.allclose(got[:, 0].T, torch.tensor([red, dark, dark]))
    assert torch.allclose(got[:, 1].T, torch.tensor([red, dark, dark]))
    assert torch.allclose(got[:, 2].T, torch.tensor([mixed, [0, 0.3, 0], [0, 0.3, 0]]))


def test_cell_colors_of_one_pixel():
    image = np.full((1, 1, 3), 51, np.uint8)
    assert torch.allclose(cell_colors(image, grid_boxes((3, 3), (1, 1))), torch.full((3, 3, 3), 0.2))
