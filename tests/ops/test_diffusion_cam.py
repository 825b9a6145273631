"""diffusion_cam on every backend: the composition of pool and refine, in one call."""

from __future__ import annotations

import pytest
import torch

from dcam_fast import ops
from dcam_fast.config import RELEASED, UNGUIDED
from dcam_fast.ops import _backends


def operands(random, T=3, S=20, D=33):
    A = torch.rand(S, D, generator=random)
    return A, torch.randn(T, S, D, generator=random)


@pytest.mark.parametrize("aggregation", ["pooled", "elementwise"])
@pytest.mark.parametrize("config", [RELEASED, UNGUIDED], ids=["released", "unguided"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_is_pool_and_refine(backend, random, aggregation, config, blocks):
    A, G = (tensor.to(backend.device) for tensor in operands(random))
    cells = torch.arange(15, device=backend.device)
    ratios = torch.rand(3, generator=random).to(backend.device)
    given = ([A] * blocks, [G] * blocks)
    options = {"repetition": ratios, "backend": backend.backend}
    got = ops.diffusion_cam(*given, (3, 5), cells, aggregation, config, **options)
    raw = ops.pool(*given, cells, aggregation, backend=backend.backend).reshape(3, 3, 5)
    assert torch.equal(got, ops.refine(raw, config, **options))
    out, flags = torch.full_like(got, torch.nan), torch.full((3,), 9, dtype=torch.int32, device=backend.device)
    workspace = torch.full(
        (ops.diffusion_cam_workspace(given[1], cells, aggregation),), torch.nan, device=backend.device
    )
    ops.diffusion_cam_out(out, flags, workspace, *given, cells, aggregation, config, **options)
    assert torch.equal(out, got)
    assert flags.tolist() == [0] * 3


def test_not_finite(backend, random):
    A, G = (tensor.to(backend.device) for tensor in operands(random))
    expected = ops.diffusion_cam(A, G, (4, 5), backend=backend.backend)
    G[1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match=r"^pool: gradients must be finite, got NaN or Inf$"):
        ops.diffusion_cam(A, G, (4, 5), backend=backend.backend)
    got = ops.diffusion_cam(A, G, (4, 5), check=False, backend=backend.backend)
    assert (got[1] == 0).all()
    assert torch.equal(got[::2], expected[::2])


def test_no_targets(backend):
    A, G = torch.rand(6, 4, device=backend.device), torch.rand(0, 6, 4, device=backend.device)
    assert ops.diffusion_cam(A, G, (2, 3), backend=backend.backend).shape == (0, 2, 3)


@pytest.mark.parametrize("grid", [(4, 4), (0, 20), (-4, -5)])
def test_grid(random, grid):
    A, G = operands(random)
    with pytest.raises(ValueError, match=r"^diffusion_cam: grid must be \(h, w\) of 20 cells, got "):
        ops.diffusion_cam(A, G, grid)


def test_out_checks_its_buffers(random):
    A, G = operands(random)
    out, flags, workspace = torch.empty(3, 4, 5), torch.empty(3, dtype=torch.int32), torch.empty(0)
    with pytest.raises(ValueError, match=r"^diffusion_cam_out: out must be contiguous"):
        ops.diffusion_cam_out(out[:2], flags, workspace, A, G)
    with pytest.raises(ValueError, match=r"^diffusion_cam_out: flags must be contiguous"):
        ops.diffusion_cam_out(out, flags.long(), workspace, A, G)
    with pytest.raises(ValueError, match=r"^diffusion_cam_out: workspace must be contiguous"):
        ops.diffusion_cam_out(out, flags, workspace.double(), A, G)
    message = r"^diffusion_cam_out: workspace must begin at a multiple of 16 bytes, got one 4 bytes past it$"
    for backend in ("cpu", "reference"):
        if _backends.BACKENDS[backend].unavailable_reason() is None:
            with pytest.raises(ValueError, match=message):
                ops.diffusion_cam_out(out, flags, torch.empty(9)[1:], A, G, backend=backend)


def test_compile(random):
    A, G = operands(random)
    compiled = torch.compile(lambda a, g: ops.diffusion_cam(a, g, (4, 5)) * 2, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(A, G), ops.diffusion_cam(A, G, (4, 5)) * 2)
