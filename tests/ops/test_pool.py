"""pool on every backend against the reference in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcam_fast import ops
from dcam_fast.ops import reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Both sides read the same stored values, so only float32 sums differ: D or N terms in parallel partial sums of which
# none has more than a few hundred terms, errors of random sign. sqrt(300) roundings of 6e-8 are 1e-6 of the largest
# sum, and normalization to 0..1 may double that.
TOLERANCE = 3e-6
# hires_cam and grad_cam add products of both signs: the same error, but relative to a sum that cancellation made small.
TOLERANCE_SIGNED = 3e-5


def tolerance(aggregation: str) -> float:
    return TOLERANCE_SIGNED if aggregation in ("hires_cam", "grad_cam") else TOLERANCE


def inputs(random, T=3, S=40, D=96, dtype=torch.float32, shared=True, device="cpu"):
    A = torch.randn(*([] if shared else [T]), S, D, generator=random)
    G = torch.randn(T, S, D, generator=random)
    return A.to(device, dtype), G.to(device, dtype)


def exact(A, G, cells=None, aggregation="elementwise"):
    def widen(x):
        return [t.cpu().double() for t in x] if isinstance(x, list) else x.cpu().double()

    return reference.pool(widen(A), widen(G), None if cells is None else cells.cpu(), aggregation)


def assert_same(got, expected, aggregation):
    assert got.dtype == torch.float32
    assert got.shape == expected.shape
    if got.numel():
        assert (got.cpu().double() - expected).abs().max() <= tolerance(aggregation)


@pytest.mark.parametrize("aggregation", ops.AGGREGATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shared", [True, False])
def test_aggregations(backend, random, aggregation, dtype, shared):
    # 1 channel to more than a step of any backend; tails of every kind
    for T, S, D in [(1, 1, 1), (1, 7, 3), (3, 12, 37), (2, 9, 1100), (64, 5, 33), (5, 30, 128)]:
        A, G = inputs(random, T, S, D, dtype, shared, backend.device)
        got = ops.pool(A, G, aggregation=aggregation, backend=backend.backend)
        assert_same(got, exact(A, G, aggregation=aggregation), aggregation)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    T=st.integers(0, 6),
    S=st.integers(1, 50),
    D=st.integers(1, 200),
    dtype=st.sampled_from(DTYPES),
    aggregation=st.sampled_from(ops.AGGREGATIONS),
    shared=st.booleans(),
    gathered=st.booleans(),
)
def test_random(seed, T, S, D, dtype, aggregation, shared, gathered):
    random = torch.Generator().manual_seed(seed)
    A, G = inputs(random, T, S, D, dtype, shared)
    cells = torch.randint(0, S, (S + 3,), generator=random) if gathered else None
    assert_same(ops.pool(A, G, cells, aggregation), exact(A, G, cells, aggregation), aggregation)


@pytest.mark.parametrize("aggregation", ops.AGGREGATIONS)
def test_blocks(backend, random, aggregation):
    blocks = [
        inputs(random, 4, 30, D, torch.bfloat16, shared, backend.device) for D, shared in ((64, True), (50, False))
    ]
    A, G = [a for a, _ in blocks], [g for _, g in blocks]
    cells = torch.tensor([29, 0, 3, 3, 17], device=backend.device)
    got = ops.pool(A, G, cells, aggregation, backend=backend.backend)
    assert_same(got, exact(A, G, cells, aggregation), aggregation)
    assert got.amin() == 0
    assert (got.amax(1) > 0.999).all()


@pytest.mark.parametrize("aggregation", ["elementwise", "pooled"])
def test_strided(backend, random, aggregation):
    """Slices of a longer sequence, of one target in two, and channels that do not lie together."""
    A, G = inputs(random, 6, 80, 128, torch.bfloat16, True, backend.device)
    for a, g in (
        (A[5:65], G[::2, 5:65]),
        (A[:, 32:96], G[:, :, 32:96]),
        (A[:, ::2], G[:, :, ::2]),
        (A.T[:80].T, G.mT.contiguous().mT[:, :, :80]),
    ):
        got = ops.pool(a, g, aggregation=aggregation, backend=backend.backend)
        assert_same(got, exact(a, g, aggregation=aggregation), aggregation)


def test_every_half(backend):
    """Every finite half, subnormals among them, is widened exactly."""
    halves = torch.arange(0x7C00, dtype=torch.int16).view(torch.float16).to(backend.device)[:, None]
    for part in (halves, halves[:1024]):
        got = ops.pool(part, part[None], aggregation="activation", backend=backend.backend)
        assert_same(got, exact(part, part[None], aggregation="activation"), "activation")
        signed = ops.pool(-part, -part[None], aggregation="activation", backend=backend.backend)
        assert signed.count_nonzero() == 0


@pytest.mark.parametrize("aggregation", ops.AGGREGATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_not_finite(backend, random, aggregation, dtype, bad):
    A, G = inputs(random, 3, 20, 70, dtype, False, backend.device)
    unspoiled = ops.pool(A, G, aggregation=aggregation, backend=backend.backend)
    for name in ("activations", "gradients"):
        # the last channel is a tail; zero in the other tensor must not hide it
        a, g = A.clone(), G.clone()
        (a if name == "activations" else g)[1, 11, 69] = bad
        (g if name == "activations" else a)[1, 11, 69] = 0
        out = torch.full_like(unspoiled, 7)
        flags = torch.full((3,), 7, dtype=torch.int32, device=backend.device)
        ops.pool_out(out, flags, a, g, aggregation=aggregation, backend=backend.backend)
        unread = aggregation == "activation" and name == "gradients"
        assert flags.tolist() == [0, int(not unread), 0]
        assert torch.equal(out[[0, 2]], unspoiled[[0, 2]])
        if unread:
            continue
        assert out[1].count_nonzero() == 0
        with pytest.raises(ValueError, match=f"^pool: {name} must be finite, got NaN or Inf$"):
            ops.pool(a, g, aggregation=aggregation, backend=backend.backend)
        # rows that are not gathered do not matter
        cells = torch.tensor([10, 12], device=backend.device)
        ops.pool(a, g, cells, "elementwise", backend=backend.backend)


def test_blocks_not_finite(backend, random):
    A, G = inputs(random, 3, 20, 40, shared=False, device=backend.device)
    spoiled = G.clone()
    spoiled[2, 0, 0] = torch.inf
    for gradients in ([spoiled, G], [G, spoiled]):
        got = ops.pool([A, A], gradients, check=False, backend=backend.backend)
        unspoiled = ops.pool([A, A], [G, G], backend=backend.backend)
        assert torch.equal(got[:2], unspoiled[:2])
        assert got[2].count_nonzero() == 0


def test_overflow(backend):
    A = torch.full((4, 8), 1e30, device=backend.device)
    with pytest.raises(ValueError, match=r"^pool: activations times gradients must be finite, got NaN or Inf$"):
        ops.pool(A, A[None], backend=backend.backend)


@pytest.mark.parametrize("aggregation", ops.AGGREGATIONS)
def test_constant(backend, aggregation):
    """Zeros and equal rows give zeros, not NaN."""
    for value in (0.0, 1.0):
        A = torch.full((10, 17), value, device=backend.device)
        got = ops.pool(A, A.expand(2, 10, 17), aggregation=aggregation, backend=backend.backend)
        assert got.shape == (2, 10)
        assert got.count_nonzero() == 0


def test_empty(backend, random):
    A, G = inputs(random, 0, 20, 40, device=backend.device)
    assert ops.pool(A, G, backend=backend.backend).shape == (0, 20)
    flags = torch.empty(0, dtype=torch.int32, device=backend.device)
    ops.pool_out(torch.empty(0, 20, device=backend.device), flags, A, G, backend=backend.backend)
