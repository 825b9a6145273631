"""overlay and upsample on every backend against the reference."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dcam_fast import ops
from dcam_fast.ops import reference

# One linear interpolation per axis of values up to 1: four roundings of 6e-8.
TOLERANCE = 5e-7


def boxes_of(x_edges, y_edges):
    """[h, w, 4] from (start, end) of every column and row."""
    x, y = torch.tensor(x_edges, dtype=torch.float32), torch.tensor(y_edges, dtype=torch.float32)
    h, w = len(y), len(x)
    columns, rows = x[None].expand(h, w, 2), y[:, None].expand(h, w, 2)
    return torch.stack([columns[..., 0], rows[..., 0], columns[..., 1], rows[..., 1]], -1)


def grid_boxes(h, w, cell, left=0.0, top=0.0, gap=0.0):
    step = cell + gap
    x = [(left + i * step, left + i * step + cell) for i in range(w)]
    y = [(top + i * step, top + i * step + cell) for i in range(h)]
    return boxes_of(x, y)


def assert_blended(got, expected):
    """The same picture: a value at the edge of a level may round to the next one, in float32 or float64."""
    assert got.dtype == torch.uint8
    assert got.shape == expected.shape
    difference = (got.cpu().int() - expected.int()).abs()
    if difference.numel():
        # one level of the table is at most a few levels of color
        assert difference.max() <= 8
        assert (difference > 0).float().mean() <= 1e-3


@pytest.mark.parametrize("scale", [1, 4, 7])
def test_upsample_is_bilinear(backend, random, scale):
    """Boxes that tile the image: half-pixel bilinear interpolation, as torch has it."""
    maps = torch.rand(3, 5, 8, generator=random).to(backend.device)
    boxes = grid_boxes(5, 8, scale).to(backend.device)
    got = ops.upsample(maps, boxes, (5 * scale, 8 * scale), backend=backend.backend)
    expected = F.interpolate(maps[None], scale_factor=scale, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


GRIDS = [(1, 1), (1, 7), (6, 1), (2, 2), (9, 13), (27, 27)]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(
    "placement", [(4.0, 0.0, 0.0, 0.0), (3.5, 5.25, -4.75, 0.0), (2.0, 3.0, 3.0, 2.5), (0.4, 1, 1, 0)]
)
def test_against_reference(backend, random, grid, placement):
    cell, left, top, gap = placement
    maps = torch.rand(4, *grid, generator=random) * 1.6 - 0.3
    boxes = grid_boxes(*grid, cell, left, top, gap)
    image = torch.randint(0, 256, (61, 83, 3), generator=random, dtype=torch.uint8)
    table = torch.randint(0, 256, (256, 3), generator=random, dtype=torch.uint8)
    here = [t.to(backend.device) for t in (maps, image, boxes, table)]
    got = ops.upsample(here[0], here[2], (61, 83), backend=backend.backend)
    expected = reference.upsample(maps.double(), boxes, (61, 83))
    assert (got.cpu() - expected).abs().max() <= TOLERANCE
    smooth = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, 3).to(backend.device)
    for alpha in (0.0, 0.37, 1.0):
        got = ops.overlay(*here[:3], smooth, alpha, backend=backend.backend)
        assert_blended(got, reference.overlay(maps.double(), image, boxes, smooth.cpu(), alpha))


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    T=st.integers(0, 3),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    x=st.lists(st.tuples(st.floats(0.1, 5), st.floats(-1, 3)), min_size=1, max_size=9),
    y=st.lists(st.tuples(st.floats(0.1, 5), st.floats(-1, 3)), min_size=1, max_size=9),
)
def test_random(seed, T, size, x, y):
    """Cells of different sizes, with gaps and overlaps between them, in and beyond the image."""

    def edges(axis):
        at, found = -2.0, []
        for length, gap in axis:
            found.append((at, at + length))
            at += length + max(gap, 0.05 - length)
        return found

    random = torch.Generator().manual_seed(seed)
    boxes = boxes_of(edges(x), edges(y))
    centers = boxes[0, :, 0] + boxes[0, :, 2], boxes[:, 0, 1] + boxes[:, 0, 3]
    maps = torch.rand(T, len(y), len(x), generator=random)
    assume(all((c.diff() > 0.01).all() for c in centers))
    got = ops.upsample(maps, boxes, size)
    expected = reference.upsample(maps.double(), boxes, size)
    assert got.shape == (T, *size)
    if T:
        assert (got - expected).abs().max() <= TOLERANCE
    image = torch.randint(0, 256, (*size, 3), generator=random, dtype=torch.uint8)
    assert_blended(ops.overlay(maps, image, boxes), ops.overlay(maps.double(), image, boxes, backend="reference"))


def test_unseen_pixels_keep_the_image(backend):
    """Outside the boxes' rectangle nothing is blended; a gap between two boxes is."""
    image = torch.full((30, 40, 3), 200, dtype=torch.uint8, device=backend.device)
    boxes = grid_boxes(2, 2, 4, left=10, top=5, gap=6).to(backend.device)
    table = torch.zeros(256, 3, dtype=torch.uint8, device=backend.device)
    maps = torch.rand(1, 2, 2).to(backend.device)
    out = ops.overlay(maps, image, boxes, table, 1.0, backend=backend.backend)[0].cpu()
    visible = torch.zeros(30, 40, dtype=torch.bool)
    visible[5:19, 10:24] = True
    assert (out[visible] == 0).all()
    assert (out[~visible] == 200).all()


def test_values(backend):
    """Clipping, rounding halves up, NaN and infinities."""
    cells = torch.tensor([[torch.nan, -torch.inf, -3.0, 0.0, 0.5, 1.0, 2.0, torch.inf]], device=backend.device)[None]
    boxes = grid_boxes(1, 8, 1).to(backend.device)
    image = torch.full((1, 8, 3), 101, dtype=torch.uint8, device=backend.device)
    table = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, 3).contiguous().to(backend.device)
    for name in (backend.backend, "reference"):
        colors = ops.overlay(cells, image, boxes, table, 1.0, backend=name)
        assert colors[0, 0, :, 0].tolist() == [0, 0, 0, 0, 128, 255, 255, 255]
        blended = ops.overlay(cells, image, boxes, table, 0.5, backend=name)
        assert blended[0, 0, :, 1].tolist() == [51, 51, 51, 51, 115, 178, 178, 178]


def test_named_colormap():
    from matplotlib import colormaps

    image = torch.zeros(1, 4, 3, dtype=torch.uint8)
    maps = torch.tensor([[[0.0, 0.25, 0.5, 1.0]]])
    out = ops.overlay(maps, image, grid_boxes(1, 4, 1), "viridis", 1.0)
    assert out[0, 0].tolist() == colormaps["viridis"]([0, 64, 128, 255], bytes=True)[:, :3].tolist()


def test_strided(backend, random):
    maps = torch.rand(6, 12, 14, generator=random).to(backend.device)[::2, 1:7, ::2]
    boxes = grid_boxes(6, 7, 3).to(backend.device)
    image = torch.randint(0, 256, (3, 20, 50), generator=random, dtype=torch.uint8).to(backend.device).permute(1, 2, 0)
    got = ops.overlay(maps, image[:, ::2], boxes, backend=backend.backend)
    expected = ops.overlay(maps.contiguous(), image[:, ::2].contiguous(), boxes, backend=backend.backend)
    assert torch.equal(got, expected)
    assert torch.equal(
        ops.upsample(maps, boxes, (20, 25), backend=backend.backend),
        ops.upsample(maps.contiguous(), boxes, (20, 25), backend=backend.backend),
    )
    low = maps.bfloat16()
    assert torch.equal(
        ops.overlay(low, image, boxes, backend=backend.backend),
        ops.overlay(low.float(), image, boxes, backend=backend.backend),
    )


@pytest.mark.parametrize("op", ["upsample", "overlay"])
def test_boxes(op):
    boxes = grid_boxes(3, 4, 5)
    maps, image = torch.rand(1, 3, 4), torch.zeros(15, 20, 3, dtype=torch.uint8)

    def run(changed, backend, **options):
        if op == "upsample":
            return ops.upsample(maps, changed, (15, 20), backend=backend, **options)
        return ops.overlay(maps, image, changed, backend=backend, **options)

    sheared, flipped, flat, unknown = (boxes.clone() for _ in range(4))
    sheared[1, 2, 0] += 1
    flipped = flipped.flip(1)
    flat[:, 1, 2] = flat[:, 1, 0]
    unknown[0, 0, 0] = torch.nan
    separable = "separable (x from the column, y from the row)"
    ordered = "ordered (x0 < x1, y0 < y1, centers ascending)"
    for backend in (None, "reference"):
        for changed, need in ((sheared, separable), (flipped, ordered), (flat, ordered), (unknown, separable)):
            with pytest.raises(ValueError, match="boxes must be") as error:
                run(changed, backend)
            assert str(error.value) == f"{op}: boxes must be {need}, got others"
            assert run(changed, backend, check=False).shape[:3] == (1, 15, 20)
        assert torch.equal(run(boxes, backend, check=False), run(boxes, backend))
