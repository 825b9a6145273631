"""Arguments of the wrong type: every op raises TypeError or ValueError that names the op and the argument."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch

from dcam_fast import METHODS, ops
from dcam_fast.config import DEFAULT, RELEASED, UNGUIDED
from dcam_fast.images import grid_boxes
from dcam_fast.ops import reference

A, G = torch.rand(6, 8), torch.rand(2, 6, 8)
MAPS, MAP = torch.rand(2, 5, 7), np.full((5, 7), 0.5, np.float32)
GUIDE = torch.rand(3, 5, 7)
BOXES = grid_boxes((5, 7), (5, 7))
IMAGE = torch.zeros(5, 7, 3, dtype=torch.uint8)
OUT, FLAGS, WORKSPACE = torch.empty(2, 6), torch.empty(2, dtype=torch.int32), torch.empty(0)

# an op and its right arguments by name
CALLS = {
    "pool": (ops.pool, {"activations": A, "gradients": G, "aggregation": "pooled", "check": True}),
    "pool_out": (ops.pool_out, {"out": OUT, "flags": FLAGS, "activations": A, "gradients": G}),
    "refine": (
        ops.refine,
        {"maps": MAPS, "config": RELEASED, "repetition": 0.1, "check": True, "out": MAPS + 0},
    ),
    "refine_array": (ops.refine_array, {"map": MAP, "config": RELEASED, "repetition": 0.1}),
    "rank_filter": (ops.rank_filter, {"maps": MAPS, "k": 3}),
    "rank_filter_array": (ops.rank_filter_array, {"map": MAP, "k": 3}),
    "guided_filter": (ops.guided_filter, {"maps": MAPS, "guide": GUIDE, "radius": 2, "epsilon": 1e-3}),
    "upsample": (ops.upsample, {"maps": MAPS, "boxes": BOXES, "size": (5, 7), "check": True}),
    "overlay": (
        ops.overlay,
        {"maps": MAPS, "image": IMAGE, "boxes": BOXES, "colormap": "turbo", "alpha": 0.5, "check": True},
    ),
    "diffusion_cam": (
        ops.diffusion_cam,
        {"activations": A, "gradients": G, "grid": (2, 3), "aggregation": "pooled", "config": RELEASED, "check": True},
    ),
    "diffusion_cam_out": (
        ops.diffusion_cam_out,
        {
            "out": OUT.view(2, 2, 3),
            "flags": FLAGS,
            "workspace": WORKSPACE,
            "activations": A,
            "gradients": G,
            "config": RELEASED,
        },
    ),
    "diffusion_cam_workspace": (ops.diffusion_cam_workspace, {"gradients": G, "aggregation": "pooled"}),
}
WRONG = [None, "paper", [[1.0]], 3.5, {}, object(), (8.0, 8.0), np.zeros(3), A.to_sparse(), [], 10**400]
RIGHT = [("refine", "out", None), ("refine", "config", None), ("guided_filter", "epsilon", WRONG[3])]
CASES = [(name, argument) for name, (_, right) in CALLS.items() for argument in right]


@pytest.mark.parametrize(("name", "argument"), CASES, ids=[f"{name}-{argument}" for name, argument in CASES])
def test_wrong_kinds(name, argument):
    call, right = CALLS[name]
    call(**right)
    for wrong in WRONG:
        if any((name, argument) == fit[:2] and wrong is fit[2] for fit in RIGHT):
            continue  # right
        with pytest.raises((TypeError, ValueError)) as error:
            call(**{**right, argument: wrong})
        assert str(error.value).startswith(f"{name}: "), (wrong, str(error.value))
        assert " must " in str(error.value)


@pytest.mark.parametrize("backend", [3, [], "gpu"])
def test_backend(backend):
    with pytest.raises(ValueError, match=r"^refine: backend must be one of cpu, "):
        ops.refine(MAPS, backend=backend)


@pytest.mark.parametrize("ids", [None, 3, "abc", [1.5], [[1, 2]], torch.rand(3), torch.zeros(2, 2), [True], [None]])
def test_token_ids(ids):
    with pytest.raises(TypeError, match=r"^repetition_ratio: token_ids must be a sequence of integers"):
        ops.repetition_ratio(ids)


@pytest.mark.parametrize("grids", [3, "57", [(5.0, 7.0)], [5, 7], [None], [(5, 7, 1)], [(2**70, 1)]])
def test_grids(grids):
    with pytest.raises((TypeError, ValueError), match=r"^refine: grids must "):
        ops.refine(MAPS.flatten(), RELEASED, grids=grids)


@pytest.mark.parametrize("side", ["384", [384], True, float("nan"), float("inf"), -1])
def test_image_side(side):
    with pytest.raises((TypeError, ValueError), match=r"^refine: image_side must be "):
        ops.refine(MAPS, replace(RELEASED, size="image"), image_side=side)


def test_numpy_numbers():
    """NumPy's integers and floats are numbers."""
    assert torch.equal(ops.rank_filter(MAPS, np.int64(3)), ops.rank_filter(MAPS, 3))
    assert torch.equal(ops.upsample(MAPS, BOXES, (np.int32(5), np.int64(7))), ops.upsample(MAPS, BOXES, (5, 7)))
    got = ops.diffusion_cam(A, G, (np.int64(2), np.int64(3)), repetition=np.float32(0.5))
    assert torch.equal(got, ops.diffusion_cam(A, G, (2, 3), repetition=0.5))
    grids = [(np.int64(5), np.int64(7))] * 2
    assert torch.equal(ops.refine(MAPS.flatten(), grids=grids).view_as(MAPS), ops.refine(MAPS))
    assert np.array_equal(ops.rank_filter_array(MAP, np.int8(3)), ops.rank_filter_array(MAP, 3))


@pytest.mark.parametrize("backend", [None, "reference"])
def test_nothing_claims_gradients(backend):
    """Whatever requires gradients, results do not; inside torch.func and torch.compile neither."""

    def needing(tensor):
        return tensor.clone().requires_grad_()

    options = {"backend": backend}
    results = [
        ops.pool(needing(A), needing(G), **options),
        ops.refine(needing(MAPS), repetition=needing(torch.rand(2)), **options),
        ops.refine(MAPS, UNGUIDED, repetition=needing(torch.rand(2)), **options),
        ops.guided_filter(MAPS, needing(GUIDE), **options),
        ops.guided_filter(needing(MAPS), GUIDE, **options),
        ops.upsample(MAPS, needing(BOXES), (5, 7), **options),
        ops.overlay(needing(MAPS), IMAGE, needing(BOXES), **options),
        ops.diffusion_cam(A, G, (2, 3), repetition=needing(torch.rand(2)), **options),
        ops.rank_filter(needing(MAPS), 3, **options),
    ]
    assert not any(result.requires_grad for result in results)
    gradient = torch.func.grad(lambda x: ops.rank_filter(x, 3, **options).sum() + (x * x).sum())(MAPS)
    assert torch.allclose(gradient, 2 * MAPS)
    with pytest.raises(ValueError, match=r"^refine: out must not require gradients"):
        ops.refine(MAPS, out=needing(MAPS), **options)


@pytest.mark.parametrize("namespace", ["dcam_fast", "dcam_fast_reference"])
def test_raw_operators_claim_no_gradients(namespace):
    raw = getattr(torch.ops, namespace)
    guide, boxes = GUIDE.clone().requires_grad_(), BOXES.clone().requires_grad_()
    assert not raw.guided_filter(MAPS, guide, 2, 1e-3).requires_grad
    assert not raw.upsample(MAPS, boxes, 5, 7, True).requires_grad
    assert not raw.refine(MAPS, RELEASED.packed, None, 0.0, torch.rand(2).requires_grad_(), 0.0, True).requires_grad


@pytest.mark.parametrize("backend", [None, "reference"])
def test_overlap(backend):
    """What is written into overlaps nothing that is read, but for `maps` itself."""
    options = {"backend": backend}
    room = torch.rand(6, 5, 7)
    before = room.clone()
    for out in (room[1:3], room.view(-1)[1:71].view(2, 5, 7), room.view(-1)[69:139].view(2, 5, 7)):
        with pytest.raises(ValueError, match=r"^refine: out must not overlap maps, got memory of both$"):
            ops.refine(room[:2], RELEASED, out=out, **options)
    with pytest.raises(ValueError, match="overlap maps"):
        ops.refine(room[::2, :, :4], RELEASED, out=room.view(-1)[:60].view(3, 5, 4), **options)
    with pytest.raises(ValueError, match="overlap repetition"):
        ops.refine(MAPS, RELEASED, repetition=room.view(-1)[5:7], out=room[:2], **options)
    grids = torch.tensor([[2, 2], [2, 2]])
    with pytest.raises(ValueError, match="overlap grids"):
        ops.refine(torch.rand(8), RELEASED, grids=grids, out=grids.view(-1).view(torch.float32), **options)
    assert torch.equal(room, before)
    block, flags = torch.rand(2, 6, 8), torch.zeros(2, dtype=torch.int32)
    cells = torch.arange(6)
    for out, other, arguments in (
        (block.view(-1)[:12].view(2, 6), "gradients", (A, block, cells)),
        (block.view(-1)[40:52].view(2, 6), "activations", (block[0], G, cells)),
        (cells.view(torch.float32).view(2, 6), "cells", (A, G, cells)),
    ):
        with pytest.raises(ValueError, match=f"^pool_out: out must not overlap {other}, got memory of both$"):
            ops.pool_out(out, flags, *arguments, **options)
    shared = torch.empty(12)
    with pytest.raises(ValueError, match=r"^pool_out: out must not overlap flags"):
        ops.pool_out(shared.view(2, 6), shared[:2].view(torch.int32), A, G, **options)
    out = torch.empty(2, 2, 3)
    with pytest.raises(ValueError, match=r"^diffusion_cam_out: workspace must not overlap out"):
        ops.diffusion_cam_out(out, flags, out.view(-1), A, G, **options)


@pytest.mark.parametrize("op", [ops.pool, ops.pool_out, ops.diffusion_cam, ops.diffusion_cam_out, reference.pool])
def test_the_default_aggregation_is_that_of_the_default_method(op):
    assert inspect.signature(op).parameters["aggregation"].default == METHODS["default"].aggregation


@pytest.mark.parametrize("refine", [ops.refine, reference.refine])
def test_the_default_config_is_that_of_the_default_method(refine):
    assert torch.equal(refine(MAPS, guide=GUIDE), refine(MAPS, METHODS["default"].profile, guide=GUIDE))
    assert torch.equal(refine(MAPS), refine(MAPS, replace(METHODS["default"].profile, denoise="gaussian")))


def test_guide_may_be_written_over():
    """With a guide, `out` may overlap inputs: the filtered maps are in separate memory."""
    guide = torch.rand(3, 5, 7)
    expected = ops.refine(guide[1:], DEFAULT, guide=guide)
    assert torch.equal(ops.refine(guide[1:], DEFAULT, guide=guide, out=guide[:2]), expected)


NO_ROW = torch.empty(2, 0, 8)
PACKED = list(RELEASED.packed)
RAW = {
    "no rows": lambda op: op.pool([torch.empty(0, 8)], [NO_ROW], None, 1, True),
    "cells of no row": lambda op: op.pool([torch.empty(0, 8)], [NO_ROW], torch.tensor([0, 1]), 1, False),
    "more activations": lambda op: op.pool([A, A], [G], None, 1, True),
    "flat activations": lambda op: op.pool([A[0]], [G], None, 1, True),
    "activations of no dimension": lambda op: op.pool([A[0, 0]], [G], None, 1, True),
    "flat gradients": lambda op: op.pool([A], [G[0]], None, 1, True),
    "no cells": lambda op: op.pool([A], [G], torch.empty(0, dtype=torch.int64), 1, True),
    "cells beyond": lambda op: op.pool([A], [G], torch.tensor([6]), 1, True),
    "aggregation": lambda op: op.pool([A], [G], None, -1, True),
    "pool_out": lambda op: op.pool_out(torch.empty(2, 5), FLAGS, [A], [G], None, 1),
    "pool_out of no row": lambda op: op.pool_out(torch.empty(2, 2), FLAGS, [A[:0]], [NO_ROW], torch.tensor([0, 1]), 1),
    "refine of flat maps": lambda op: op.refine(MAPS[0], PACKED, None, 0.0, None, 0.0, True),
    "refine of no width": lambda op: op.refine(MAPS[..., :0], PACKED, None, 0.0, None, 0.0, True),
    "repetitions": lambda op: op.refine(MAPS, PACKED, None, 0.0, torch.rand(1), 0.0, True),
    "short config": lambda op: op.refine(MAPS, PACKED[:3], None, 0.0, None, 0.0, True),
    "wild percentiles": lambda op: op.refine(
        MAPS, [*PACKED[:9], float("nan"), 1e9, -5.0, *PACKED[12:]], None, 0.0, None, 0.0, True
    ),
    "grids": lambda op: op.refine(MAPS.view(-1), PACKED, torch.tensor([[5, 8]]), 0.0, None, 0.0, True),
    "refine_out": lambda op: op.refine_out(torch.empty(3), MAPS, PACKED, None, 0.0, None, 0.0, True),
    "rank_filter": lambda op: op.rank_filter(MAPS[0], 3),
    "guide": lambda op: op.guided_filter(MAPS, GUIDE[:2], 2, 1e-3),
    "radius": lambda op: op.guided_filter(MAPS, GUIDE, 9, 1e-3),
    "epsilon": lambda op: op.guided_filter(MAPS, GUIDE, 2, float("nan")),
    "boxes": lambda op: op.upsample(MAPS, BOXES[0], 5, 7, False),
    "no pixel": lambda op: op.upsample(MAPS, BOXES, 0, 7, False),
    "too many pixels": lambda op: op.upsample(MAPS, BOXES, 2**62, 2**62, False),
    "image": lambda op: op.overlay(MAPS, IMAGE[..., :2], BOXES, torch.zeros(256, 3, dtype=torch.uint8), 0.5, True),
    "table": lambda op: op.overlay(MAPS, IMAGE, BOXES, torch.zeros(255, 3, dtype=torch.uint8), 0.5, True),
    "grid": lambda op: op.diffusion_cam([A], [G], None, 1, 2, 4, PACKED, 0.0, None, 0.0, True),
    "grid of no row": lambda op: op.diffusion_cam(
        [A[:0]], [NO_ROW], torch.tensor([0, 1]), 1, 1, 2, PACKED, 0.0, None, 0.0, True
    ),
    "diffusion_cam_out": lambda op: op.diffusion_cam_out(
        torch.empty(2, 6), FLAGS, WORKSPACE, [A], [G], None, 1, PACKED, 0.0, None, 0.0
    ),
    "workspace inside a tensor": lambda op: op.diffusion_cam_out(
        torch.empty(2, 2, 3), FLAGS, torch.empty(9)[1:], [A], [G], None, 1, PACKED, 0.0, None, 0.0
    ),
}


@pytest.mark.parametrize("namespace", ["dcam_fast", "dcam_fast_reference"])
@pytest.mark.parametrize("call", RAW.values(), ids=RAW)
def test_raw_operators_check_their_arguments(namespace, call):
    """Called past the wrappers an operator raises; it reads and writes nothing beyond its tensors."""
    with pytest.raises((ValueError, TypeError), match=" must "):
        call(getattr(torch.ops, namespace))


@pytest.mark.parametrize("namespace", ["dcam_fast", "dcam_fast_reference"])
def test_raw_pool_of_no_block(namespace):
    """Without a tensor torch's dispatcher finds no device to run it on."""
    with pytest.raises((ValueError, NotImplementedError)):
        getattr(torch.ops, namespace).pool([], [], None, 1, True)
