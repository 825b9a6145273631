"""Every backend is a registered operator: schemas and fakes hold, and torch.compile keeps calls whole."""

from __future__ import annotations

import shutil

import pytest
import torch

from dcam_fast import ops
from dcam_fast.config import PAPER, RELEASED
from dcam_fast.images import grid_boxes
from dcam_fast.ops import _backends


def operands(name: str) -> list[tuple]:
    random = torch.Generator().manual_seed(1)
    A, G = torch.rand(12, 9, generator=random), torch.rand(3, 12, 9, generator=random)
    maps = torch.rand(3, 4, 5, generator=random)
    cells, grids, ratios = torch.tensor([3, 0, 11]), torch.tensor([[4, 5], [5, 4], [2, 10]]), torch.rand(3)
    settings = list(PAPER.packed)
    boxes = grid_boxes((4, 5), (4, 5))
    image, table = torch.zeros(6, 7, 3, dtype=torch.uint8), torch.zeros(256, 3, dtype=torch.uint8)
    flags = torch.zeros(3, dtype=torch.int32)
    return {
        "pool": [([A], [G], None, 1, True), ([A, A], [G, G], cells, 0, False)],
        "pool_out": [(torch.empty(3, 12), flags, [A], [G], None, 1), (torch.empty(3, 3), flags, [A], [G], cells, 5)],
        "refine": [
            (maps, settings, None, 0.1, None, 384.0, True),
            (maps.flatten(), settings, grids, 0.0, ratios, 384.0, False),
        ],
        "refine_out": [(torch.empty_like(maps), maps, settings, None, 0.1, None, 384.0, True)],
        "diffusion_cam": [([A], [G], None, 1, 3, 4, settings, 0.1, None, 384.0, True)],
        "diffusion_cam_out": [
            (torch.empty(3, 3, 4), flags, torch.empty(4096), [A], [G], None, 0, settings, 0.0, ratios, 384.0)
        ],
        "guided_filter": [(maps, torch.rand(3, 4, 5), 2, 1e-3)],
        "rank_filter": [(maps, 5), (maps.bfloat16(), 3)],
        "upsample": [(maps, boxes, 6, 7, True)],
        "overlay": [(maps, image, boxes, table, 0.5, True)],
    }[name]


OPS = (
    "diffusion_cam",
    "diffusion_cam_out",
    "pool",
    "pool_out",
    "refine",
    "refine_out",
    "guided_filter",
    "rank_filter",
    "upsample",
    "overlay",
)


def moved(args, device):
    """The tensors of `args` on `device`, but for the grids, which stay on the CPU."""

    def move(x):
        if isinstance(x, list):
            return list(map(move, x))
        return x.to(device) if isinstance(x, torch.Tensor) and x.shape != (3, 2) else x

    return tuple(map(move, args))


@pytest.mark.parametrize("name", OPS)
def test_opcheck(backend, name):
    op = getattr(getattr(torch.ops, _backends.BACKENDS[backend.backend].namespace), name).default
    for args in operands(name):
        torch.library.opcheck(op, moved(args, backend.device))


@pytest.mark.parametrize("name", OPS)
def test_opcheck_reference(name):
    op = getattr(torch.ops.dcam_fast_reference, name).default
    for args in operands(name):
        torch.library.opcheck(op, args)


def chain(A, G, image, boxes, ratios):
    maps = ops.pool([A, A], [G, G], aggregation="pooled").reshape(-1, 4, 3)
    refined = ops.refine(maps, RELEASED, repetition=ratios)
    filtered = ops.rank_filter(refined * 0.5, 3)
    room = torch.empty_like(filtered)
    ops.refine(filtered, out=room, check=False)
    ragged = ops.refine(room.flatten()[:24], grids=[(4, 3), (3, 4)])
    return ops.overlay(room, image, boxes, "turbo"), ops.upsample(maps, boxes, (8, 6)), ragged


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compile():
    """One graph, also with another number of targets; and the results of the eager calls."""
    boxes = grid_boxes((4, 3), (8, 6))
    compiled = torch.compile(chain, fullgraph=True, dynamic=True)
    for T in (2, 5):
        A, G = torch.randn(12, 40), torch.randn(T, 12, 40)
        image = torch.randint(0, 256, (8, 6, 3), dtype=torch.uint8)
        args = (A, G, image, boxes, torch.rand(T))
        for got, expected in zip(compiled(*args), chain(*args), strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("backend", [None, "reference"])
def test_no_gradient(backend):
    """Tensors straight from a backward pass are taken as they are, and the result has no history."""
    A, maps = torch.rand(6, 4, requires_grad=True), torch.rand(1, 3, 4, requires_grad=True)
    results = [
        ops.pool(A, A[None] * 2, backend=backend),
        ops.refine(maps, repetition=torch.rand(1, requires_grad=True), backend=backend),
        ops.refine(maps, out=torch.empty(1, 3, 4), backend=backend),
        ops.rank_filter(maps, 3, backend=backend),
    ]
    assert not any(result.requires_grad for result in results)
