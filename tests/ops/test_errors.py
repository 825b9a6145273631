"""The errors of the ops and their messages: "<op>: <argument> must be <need>, got <value>"."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dcam_fast
from dcam_fast import ops
from dcam_fast.config import PAPER, RefineConfig
from dcam_fast.ops import _backends

A, G = torch.zeros(6, 8), torch.zeros(2, 6, 8)
MAPS = torch.rand(2, 5, 7)
BOXES = torch.zeros(5, 7, 4)
IMAGE = torch.zeros(10, 14, 3, dtype=torch.uint8)
NAMES = ", ".join(ops.AGGREGATIONS)
compiled = pytest.mark.skipif(_backends.native is None, reason="needs the extension, which is not built here")

CASES = [
    # pool
    (lambda: ops.pool(A, G, aggregation="mean"), ValueError, f"pool: aggregation must be one of {NAMES}, got 'mean'"),
    (
        lambda: ops.pool([A, A], G),
        ValueError,
        "pool: gradients must be one tensor per layer of activations, got 1 for 2 layers",
    ),
    (
        lambda: ops.pool([], []),
        ValueError,
        "pool: gradients must be one tensor per layer of activations, got 0 for 0 layers",
    ),
    (lambda: ops.pool(A, G[0]), ValueError, "pool: gradients must be [T, S, D], got [6, 8]"),
    (
        lambda: ops.pool(A[:5], G),
        ValueError,
        "pool: activations must be [S, D] or [T, S, D] like gradients [2, 6, 8], got [5, 8]",
    ),
    (
        lambda: ops.pool(G[:1], G),
        ValueError,
        "pool: activations must be [S, D] or [T, S, D] like gradients [2, 6, 8], got [1, 6, 8]",
    ),
    (
        lambda: ops.pool(A, G.half()),
        TypeError,
        "pool: gradients must be of the activations' dtype torch.float32, got torch.float16",
    ),
    (
        lambda: ops.pool([A, A[:4]], [G, G[:, :4]]),
        ValueError,
        "pool: gradients must have the same T and cells in every layer, got [2, 4, 8] after [2, 6, 8]",
    ),
    (
        lambda: ops.pool(A[:, :0], G[..., :0]),
        ValueError,
        "pool: gradients must have a row and a channel at least, got [2, 6, 0]",
    ),
    (
        lambda: ops.pool(A, G, torch.zeros(3)),
        ValueError,
        "pool: cells must be int64 [N], N > 0, got torch.float32 [3]",
    ),
    (
        lambda: ops.pool_out(torch.empty(2, 5), torch.empty(2, dtype=torch.int32), A, G),
        ValueError,
        "pool_out: out must be contiguous torch.float32 [2, 6], got torch.float32 [2, 5]",
    ),
    (
        lambda: ops.pool_out(torch.empty(2, 6), torch.empty(2), A, G),
        ValueError,
        "pool_out: flags must be contiguous int32 [2], got torch.float32 [2]",
    ),
    # rank_filter
    (lambda: ops.rank_filter(MAPS, 4), ValueError, "rank_filter: k must be an odd int from 3 to 11, got 4"),
    (lambda: ops.rank_filter(MAPS, 13), ValueError, "rank_filter: k must be an odd int from 3 to 11, got 13"),
    (lambda: ops.rank_filter(MAPS[0], 3), ValueError, "rank_filter: maps must be [T, h, w] with h, w > 0, got [5, 7]"),
    (
        lambda: ops.rank_filter(MAPS.int(), 3),
        TypeError,
        "rank_filter: maps must be float32, bfloat16 or float16 (float64 too with backend='reference'), got int32",
    ),
    # refine
    (lambda: ops.refine(MAPS[0]), ValueError, "refine: maps must be [T, h, w] with h, w > 0, got [5, 7]"),
    (lambda: ops.refine(MAPS[:, :0]), ValueError, "refine: maps must be [T, h, w] with h, w > 0, got [2, 0, 7]"),
    (
        lambda: ops.refine(MAPS, grids=[(5, 7)] * 2),
        ValueError,
        "refine: maps must be flat, [sum of h w], with grids, got [2, 5, 7]",
    ),
    (
        lambda: ops.refine(MAPS.flatten(), grids=torch.zeros(2, 3)),
        ValueError,
        "refine: grids must be int64 [T, 2] on the CPU, got torch.float32 [2, 3] on cpu",
    ),
    (
        lambda: ops.refine(MAPS, PAPER),
        ValueError,
        "refine: image_side must be the image's shorter side in pixels for this config, got None",
    ),
    (
        lambda: ops.refine(MAPS, repetition=torch.zeros(3)),
        ValueError,
        "refine: repetition must be a float or float [2] on cpu, got torch.float32 [3] on cpu",
    ),
    (lambda: ops.refine(MAPS, repetition=1.5), ValueError, "refine: repetition must be from 0 to 1, got 1.5"),
    (
        lambda: ops.refine(MAPS, out=torch.empty(2, 5, 6)),
        ValueError,
        "refine: out must be contiguous torch.float32 [2, 5, 7] on cpu, got torch.float32 [2, 5, 6] on cpu",
    ),
    # overlay
    (
        lambda: ops.upsample(MAPS, BOXES[1:], (10, 14)),
        ValueError,
        "upsample: boxes must be float32 [5, 7, 4] on cpu, got torch.float32 [4, 7, 4] on cpu",
    ),
    (
        lambda: ops.upsample(MAPS, BOXES, (0, 14)),
        ValueError,
        "upsample: size must be (H, W) of at least one pixel, got (0, 14)",
    ),
    (
        lambda: ops.overlay(MAPS, IMAGE.float(), BOXES),
        ValueError,
        "overlay: image must be uint8 [H, W, 3], got torch.float32 [10, 14, 3]",
    ),
    (
        lambda: ops.overlay(MAPS, IMAGE, BOXES, "no such map"),
        ValueError,
        "overlay: colormap must be the name of a matplotlib colormap, got 'no such map'",
    ),
    (
        lambda: ops.overlay(MAPS, IMAGE, BOXES, torch.zeros(256, 4)),
        ValueError,
        "overlay: colormap must be a name or uint8 [256, 3] on cpu, got torch.float32 [256, 4] on cpu",
    ),
    (lambda: ops.overlay(MAPS, IMAGE, BOXES, alpha=2), ValueError, "overlay: alpha must be from 0 to 1, got 2"),
    # NumPy entries
    (
        lambda: ops.refine_array(np.zeros((3, 3))),
        ValueError,
        "refine_array: map must be float32 [h, w] with h, w > 0, got float64 (3, 3)",
    ),
    (
        lambda: ops.refine_array(np.zeros((0, 3), np.float32)),
        ValueError,
        "refine_array: map must be float32 [h, w] with h, w > 0, got float32 (0, 3)",
    ),
    (
        lambda: ops.refine_array(np.full((3, 3), np.nan, np.float32)),
        ValueError,
        "refine_array: map must be finite, got NaN or Inf",
    ),
    (
        lambda: ops.rank_filter_array(np.zeros(9, np.float32), 3),
        ValueError,
        "rank_filter_array: map must be float32 [h, w] with h, w > 0, got float32 (9,)",
    ),
    (
        lambda: ops.rank_filter_array(np.zeros((3, 3), np.float32), 6),
        ValueError,
        "rank_filter_array: k must be an odd int from 3 to 11, got 6",
    ),
    # choice of a backend
    (
        lambda: ops.refine(MAPS, backend="cudnn"),
        ValueError,
        f"refine: backend must be one of {', '.join(_backends.BACKENDS)}, got 'cudnn'",
    ),
    # config
    (lambda: RefineConfig(kernel_size=4), ValueError, "RefineConfig: kernel_size must be None or odd, 3 to 11, got 4"),
    (lambda: RefineConfig(step_ratio=0), ValueError, "RefineConfig: step_ratio must be a positive number, got 0"),
    (
        lambda: RefineConfig(denoise="median"),
        ValueError,
        "RefineConfig: denoise must be one of none, rank, gaussian, guided, got 'median'",
    ),
    (
        lambda: RefineConfig(smoothing_sigma=float("nan")),
        ValueError,
        "RefineConfig: smoothing_sigma must be over 0 and at most 5 cells, got nan",
    ),
    (lambda: RefineConfig(c_rep=float("inf")), ValueError, "RefineConfig: c_rep must be from 0 to 1, got inf"),
    (
        lambda: PAPER.ablation("all"),
        ValueError,
        "RefineConfig.ablation: mode must be one of baseline, gaussian_only, confidence_only, background_only, "
        "debiasing_only, all_methods, got 'all'",
    ),
    (
        lambda: dcam_fast.profile("fast"),
        ValueError,
        "profile: name must be one of released, paper, default, unguided, got 'fast'",
    ),
]


@pytest.mark.parametrize(("call", "kind", "text"), CASES, ids=[text for _, _, text in CASES])
def test_text(call, kind, text):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == text


@compiled
def test_a_dtype_that_only_the_reference_takes():
    need = "float32, bfloat16 or float16 (float64 too with backend='reference')"
    with pytest.raises(TypeError) as error:
        ops.pool(A.double(), G.double(), backend="cpu")
    assert str(error.value) == f"pool: activations must be {need}, got float64"


@pytest.mark.parametrize("backend", [pytest.param("cpu", marks=compiled), "reference"])
def test_content(backend):
    """What only the values show; every backend says it in the same words."""
    for cells in (torch.tensor([0, 6]), torch.tensor([-1, 5])):
        with pytest.raises(ValueError, match=r"^pool: cells must be from 0 to 5, got -?\d"):
            ops.pool(A, G, cells, backend=backend)
    for grids in ([(5, 7)], [(5, 7), (5, 8)], [(5, 7), (0, 7)], [(5, 7), (-5, -7)], [(2**40, 2**40)]):
        with pytest.raises(ValueError, match=r"^refine: grids must cover the 70 cells of maps, got "):
            ops.refine(MAPS.flatten(), grids=grids, backend=backend)


@compiled
def test_raw_operators():
    """Called past the wrappers, an operator still raises for arguments that would reach beyond memory."""
    native = torch.ops.dcam_fast
    settings = list(dcam_fast.RELEASED.packed)
    wild = settings.copy()
    wild[1] = 13.0
    for packed in (settings[:-1], wild, [float("nan")] * len(settings)):
        with pytest.raises(ValueError, match=r"^refine: config must be RefineConfig\.packed$"):
            native.refine(MAPS, packed, None, 0.0, None, 0.0, True)
    with pytest.raises(ValueError, match="activations must be"):
        native.pool([A[:3]], [G], None, 1, True)
    with pytest.raises(ValueError, match="aggregation must be"):
        native.pool([A], [G], None, 9, True)
    with pytest.raises(ValueError, match="must be float32, bfloat16 or float16"):
        native.pool([A.int()], [G.int()], None, 1, True)
    with pytest.raises(ValueError, match="k must be"):
        native.rank_filter(MAPS, 4)
    with pytest.raises(ValueError, match="boxes must be"):
        native.upsample(MAPS, BOXES[:2], 4, 4, False)
    with pytest.raises(ValueError, match="out must be"):
        native.refine_out(MAPS[0], MAPS, settings, None, 0.0, None, 0.0, True)
