"""The CUDA kernels of pool against the reference, on the host emulator."""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch import Tensor

from dcam_fast.ops import reference

TOLERANCE, TOLERANCE_SIGNED = 3e-6, 3e-5  # as in tests/ops/test_pool.py
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # in the order of dcam::Dtype
# D: odd; whole vectors, but no whole step of a block; several steps
CHANNELS = (1, 37, 1096)


def run(library, activations, gradients, cells=None, aggregation="elementwise"):
    """Maps and flags of blocks, outputs poisoned and nothing written beside them."""
    T, N = gradients[0].shape[0], gradients[0].shape[1] if cells is None else len(cells)
    room, flags = torch.full((T * N + 16,), torch.nan), torch.full((T + 1,), 99, dtype=torch.int32)
    room[T * N :] = 7
    numbers: list[int] = []
    for A, G in zip(activations, gradients, strict=True):
        assert A.stride(-1) == G.stride(-1) == 1 or A.shape[-1] == 1
        numbers += [A.data_ptr(), G.data_ptr(), 0 if cells is None else cells.data_ptr(), room.data_ptr()]
        numbers += [0 if A.dim() == 2 else A.stride(0), A.stride(-2), G.stride(0), G.stride(1)]
        numbers += [G.shape[1], T, N, G.shape[2], DTYPES.index(A.dtype), reference.AGGREGATIONS.index(aggregation)]
    packed = (ctypes.c_int64 * len(numbers))(*numbers)
    assert library.pool(packed, ctypes.c_int64(len(gradients)), ctypes.c_void_p(flags.data_ptr())) == 0
    assert (room[T * N :] == 7).all()
    assert flags[T] == 99
    return room[: T * N].reshape(T, N), flags[:T].tolist()


def operands(random, T, S, D, dtype=torch.float32, shared=True) -> tuple[Tensor, Tensor]:
    A = torch.randn(*(() if shared else (T,)), S, D, generator=random)
    # rows of all lengths: a map's span is then as large as its values, as it is where there is something to see
    A *= (torch.arange(1.0, S + 1) / S)[:, None]
    return A.to(dtype), torch.randn(T, S, D, generator=random).to(dtype)


def assert_close(got, expected, aggregation):
    assert got.shape == expected.shape
    signed = aggregation in ("hires_cam", "grad_cam")
    assert (got.double() - expected).abs().max() <= (TOLERANCE_SIGNED if signed else TOLERANCE)


@pytest.mark.parametrize("aggregation", reference.AGGREGATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("T", [1, 3, 9])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_against_reference(emulated, random, aggregation, dtype, T, shared):
    for D in CHANNELS:
        A, G = operands(random, T, 19, D, dtype, shared)
        for cells in (None, torch.tensor([3, 3, 0, 18, 7])):
            got, flags = run(emulated, [A], [G], cells, aggregation)
            assert_close(got, reference.pool(A.double(), G.double(), cells, aggregation), aggregation)
            assert flags == [0] * T


@pytest.mark.parametrize("aggregation", reference.AGGREGATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided(emulated, random, aggregation, dtype):
    """Rows that start anywhere, that are longer than their channels, and targets in the reverse nesting."""
    A, G = operands(random, 6, 23, 80, dtype)
    for channels in (slice(0, 64), slice(1, 65), slice(8, 45), slice(3, 4)):
        a, g = A[2::3, channels], G[1::2, 2::3, channels]
        assert_close(
            run(emulated, [a], [g], None, aggregation)[0],
            reference.pool(a.double(), g.double(), None, aggregation),
            aggregation,
        )
    g = G.transpose(0, 1).contiguous().transpose(0, 1)
    expected = reference.pool(A.double(), g.double(), None, aggregation)
    assert_close(run(emulated, [A], [g], None, aggregation)[0], expected, aggregation)


@pytest.mark.parametrize("aggregation", ["pooled", "elementwise"])
@pytest.mark.parametrize("sizes", [(5, 40), (40, 5, 8)], ids=str)
def test_blocks(emulated, random, aggregation, sizes):
    blocks = [operands(random, 3, 11, D) for D in sizes]
    A, G = [a for a, _ in blocks], [g for _, g in blocks]
    expected = reference.pool([a.double() for a in A], [g.double() for g in G], None, aggregation)
    assert_close(run(emulated, A, G, None, aggregation)[0], expected, aggregation)


@pytest.mark.parametrize("aggregation", reference.AGGREGATIONS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("D", [24, 27])
def test_not_finite(emulated, random, aggregation, bad, D):
    """One target's map becomes zeros and sets its flag; its neighbors are unchanged."""
    A, G = operands(random, 6, 9, D, shared=False)
    unspoiled, _ = run(emulated, [A], [G], None, aggregation)
    A[2, 4, D - 1] = bad
    G[4, 8, 3] = bad
    got, flags = run(emulated, [A], [G], None, aggregation)
    spoiled = [0, 0, 1, 0, int(aggregation != "activation"), 0]
    assert flags == spoiled
    for t, is_spoiled in enumerate(spoiled):
        assert torch.equal(got[t], torch.zeros(9) if is_spoiled else unspoiled[t])


@pytest.mark.parametrize("aggregation", reference.AGGREGATIONS)
def test_shared_not_finite(emulated, random, aggregation):
    """What all targets share spoils them all, also where a weight is zero; what a row not gathered holds, none."""
    A, G = operands(random, 6, 9, 24)
    G[:, :, 5] = 0
    A[4, 5] = -torch.inf
    got, flags = run(emulated, [A], [G], None, aggregation)
    assert flags == [1] * 6
    assert (got == 0).all()
    cells = torch.tensor([0, 8, 3])
    got, flags = run(emulated, [A], [G], cells, aggregation)
    assert flags == [0] * 6
    assert_close(got, reference.pool(A.double(), G.double(), cells, aggregation), aggregation)


@pytest.mark.parametrize("aggregation", reference.AGGREGATIONS)
@pytest.mark.parametrize("bad", [-1, 9, 2**62, -(2**63)])
def test_no_such_row(emulated, random, aggregation, bad):
    for T in (2, 6):
        A, G = operands(random, T, 9, 24)
        got, flags = run(emulated, [A], [G], torch.tensor([1, bad, 2]), aggregation)
        assert flags == [1] * T
        assert (got == 0).all()


def test_one_bad_block(emulated, random):
    (A, G), (B, H) = operands(random, 3, 7, 8), operands(random, 3, 7, 8)
    unspoiled, _ = run(emulated, [A, B], [G, H])
    H[1, 2, 3] = torch.nan
    got, flags = run(emulated, [A, B], [G, H])
    assert flags == [0, 1, 0]
    assert (got[1] == 0).all()
    assert torch.equal(got[::2], unspoiled[::2])


def test_flat_maps(emulated):
    got, flags = run(emulated, [torch.ones(5, 8)], [torch.ones(2, 5, 8)])
    assert (got == 0).all()
    assert flags == [0, 0]


def test_half_numbers(emulated):
    """Subnormal, largest and negative halves are widened exactly."""
    bits = torch.tensor([0x0001, 0x03FF, 0x0400, 0x3C00, 0x7BFF, 0x8001, 0xFBFF, 0x0000], dtype=torch.int32)
    A = bits.to(torch.uint16).view(torch.float16)[:, None].expand(8, 8).contiguous()
    G = torch.ones(1, 8, 8, dtype=torch.float16)
    for scale in (1, 2**-10):
        got, _ = run(emulated, [A], [G * scale], None, "hires_cam")
        assert_close(got, reference.pool(A.double(), G.double() * scale, None, "hires_cam"), "hires_cam")


@pytest.mark.parametrize("aggregation", ["pooled", "elementwise", "grad_cam_paper"])
def test_any_order(emulated, random, aggregation):
    A, G = operands(random, 9, 12, 600, torch.bfloat16)
    results = []
    for order, seed in ((0, 0), (1, 0), (2, 1), (2, 2)):
        emulated.set_order(order, seed)
        results.append(run(emulated, [A, A], [G, G], None, aggregation)[0])
    emulated.set_order(0, 0)
    assert all(torch.equal(result, results[0]) for result in results)
