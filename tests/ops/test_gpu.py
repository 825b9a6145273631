"""Properties of the CUDA backend that only a GPU shows: bitwise identical runs, capture, streams, devices."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from dcam_fast import ops
from dcam_fast.benchmarks.implementations import captured
from dcam_fast.config import DEFAULT, RELEASED
from dcam_fast.images import grid_boxes
from dcam_fast.ops import _backends, reference

_REASON = _backends.BACKENDS["cuda"].unavailable_reason()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(_REASON is not None, reason=f"the CUDA backend is unavailable: {_REASON}"),
]

AGGREGATIONS = ("pooled", "elementwise", "layer_cam", "hires_cam")


def operands(T=6, S=729, D=1032, device="cuda"):
    random = torch.Generator().manual_seed(3)
    A = torch.randn(S, D, generator=random) * (torch.arange(1.0, S + 1) / S)[:, None]
    return A.bfloat16().to(device), torch.randn(T, S, D, generator=random).bfloat16().to(device)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_identical_runs(aggregation):
    A, G = operands()
    first = ops.diffusion_cam(A, G, (27, 27), None, aggregation, RELEASED, backend="cuda")
    for _ in range(100):
        again = ops.diffusion_cam(A, G, (27, 27), None, aggregation, RELEASED, backend="cuda")
        assert torch.equal(again, first)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_capture(aggregation):
    """Into given buffers; a replay reads what its inputs hold then."""
    A, G = operands()
    out, flags = torch.empty(6, 27, 27, device="cuda"), torch.empty(6, dtype=torch.int32, device="cuda")
    workspace = torch.empty(ops.diffusion_cam_workspace(G, aggregation=aggregation), device="cuda")

    def run():
        ops.diffusion_cam_out(out, flags, workspace, A, G, None, aggregation, RELEASED, backend="cuda")
        return out

    replay = captured(run, A.device)
    for scale in (1, -1):
        G.mul_(scale)
        assert torch.equal(replay(), ops.diffusion_cam(A, G, (27, 27), None, aggregation, RELEASED, backend="cuda"))


@pytest.mark.parametrize("grid", [(27, 27), (48, 48), (96, 96)], ids=str)
def test_guided_identical_runs(grid):
    """Its fields in shared memory, and where they do not fit; the first map whatever else is in the batch."""
    random = torch.Generator().manual_seed(4)
    maps = torch.rand(9, *grid, generator=random)
    guide = torch.rand(3, *grid, generator=random)
    first = ops.guided_filter(maps.cuda(), guide.cuda(), backend="cuda")
    assert (first.cpu() - reference.guided_filter(maps.double(), guide, 4, 1e-3)).abs().max() <= 2e-5
    for _ in range(100):
        assert torch.equal(ops.guided_filter(maps.cuda(), guide.cuda(), backend="cuda"), first)
    assert torch.equal(ops.guided_filter(maps[:1].cuda(), guide.cuda(), backend="cuda"), first[:1])


@pytest.mark.parametrize(("backend", "side"), [("cuda", 27), ("cuda", 96), ("triton", 27)])
def test_capture_of_guided_maps(backend, side):
    """The default post-processing as one graph: pool, then refine along the edges of the image; a replay reads what its
    inputs hold then."""
    if _backends.BACKENDS[backend].unavailable_reason() is not None:
        pytest.skip(f"the backend is unavailable: {_backends.BACKENDS[backend].unavailable_reason()}")
    A, G = operands(T=3, S=side * side, D=64)
    guide = torch.rand(3, side, side, generator=torch.Generator().manual_seed(5)).cuda()

    def run():
        maps = ops.pool(A, G, aggregation="pooled", check=False, backend=backend).view(-1, side, side)
        return ops.refine(maps, DEFAULT, guide=guide, repetition=0.1, check=False, backend=backend)

    replay = captured(run, torch.device("cuda"))
    for scale in (1, -1):
        G.mul_(scale)
        guide.copy_(guide.flip(2))
        assert torch.equal(replay(), run())


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_capture_of_pixels(backend):
    """overlay and upsample, boxes included: a replay reads what they hold then."""
    if _backends.BACKENDS[backend].unavailable_reason() is not None:
        pytest.skip(f"the backend is unavailable: {_backends.BACKENDS[backend].unavailable_reason()}")
    random = torch.Generator().manual_seed(10)
    maps = torch.rand(2, 27, 27, generator=random).cuda()
    image = torch.randint(0, 256, (300, 400, 3), generator=random, dtype=torch.uint8).cuda()
    boxes = grid_boxes((27, 27), (297, 378)).cuda()

    def run():
        options = {"check": False, "backend": backend}
        return ops.overlay(maps, image, boxes, **options), ops.upsample(maps, boxes, (300, 400), **options)

    replay = captured(run, torch.device("cuda"))
    for shift in (0.0, 5.5):
        boxes.add_(shift)
        maps.copy_(maps.flip(2))
        assert all(map(torch.equal, replay(), run()))


@pytest.mark.parametrize("config", [replace(DEFAULT, denoise="none"), DEFAULT], ids=["plain", "guided"])
def test_two_threads_with_maps_of_two_sizes(config):
    """Both sizes need more shared memory than a kernel has unasked."""
    random = torch.Generator().manual_seed(9)

    def work(side):
        maps, guide = given[side]
        return [ops.refine(maps, config, guide=guide, backend="cuda") for _ in range(200)]

    sides = (80, 72) if config.needs_guide else (128, 96)
    given = {side: [torch.rand(count, side, side, generator=random).cuda() for count in (5, 3)] for side in sides}
    if not config.needs_guide:
        given = {side: (maps, None) for side, (maps, _) in given.items()}
    expected = {side: ops.refine(given[side][0], config, guide=given[side][1], backend="cuda") for side in sides}
    with ThreadPoolExecutor(2) as pool:
        for side, found in zip(sides, pool.map(work, sides), strict=True):
            assert all(torch.equal(maps, expected[side]) for maps in found)


def test_streams():
    A, G = operands()
    expected = [ops.pool(A, G * scale, backend="cuda") for scale in (1, -1)]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    for _ in range(20):
        got = []
        for stream, scale in zip(streams, (1, -1), strict=True):
            with torch.cuda.stream(stream):
                got.append(ops.pool(A, G * scale, check=False, backend="cuda"))
        torch.cuda.synchronize()
        assert all(map(torch.equal, got, expected))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_other_device():
    """Tensors of a device that is not the current one."""
    A, G = operands(device="cuda:1")
    maps = ops.pool(A, G, backend="cuda")
    assert maps.device == A.device
    assert torch.cuda.current_device() == 0
    assert (maps.cpu() - reference.pool(A.cpu(), G.cpu())).abs().max() <= 3e-6
    replay = captured(lambda: ops.pool(A, G, check=False, backend="cuda"), A.device)
    G.neg_()
    assert torch.equal(replay(), ops.pool(A, G, backend="cuda"))


def test_no_such_row():
    A, G = operands()
    cells = torch.tensor([3, 729], device="cuda")
    with pytest.raises(ValueError, match=r"^pool: cells must be from 0 to 728, got 729$"):
        ops.pool(A, G, cells, backend="cuda")
    maps = ops.pool(A, G, cells, check=False, backend="cuda")
    assert (maps == 0).all()
