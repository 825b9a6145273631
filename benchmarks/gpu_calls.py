"""Calls of every op, for compute-sanitizer and ncu: `python -m dcam_fast.benchmarks.gpu_calls SIDE T...`.

Maps have SIDE x SIDE cells. Inputs are made on the host, so that few kernels but ours run.
"""

from __future__ import annotations

import sys

import torch

from dcam_fast import ops
from dcam_fast.config import DEFAULT, PAPER, RELEASED
from dcam_fast.images import grid_boxes

CHANNELS = 4096
PIXELS = (270, 480)
LARGE_SIDE = 96  # whose guided maps do not fit into shared memory


def run(device: str, backend: str, side: int, targets: int, channels: int = CHANNELS) -> None:
    """Calls each op once for every kernel that it has."""
    random = torch.Generator().manual_seed(0)
    cells = side * side
    A = torch.randn(cells, channels, generator=random).bfloat16().to(device)
    G = torch.randn(targets, cells, channels, generator=random).bfloat16().to(device)
    maps, guide = (torch.rand(count, side, side, generator=random).to(device) for count in (targets, 3))
    for aggregation in ("elementwise", "pooled"):
        ops.diffusion_cam(A, G, (side, side), None, aggregation, RELEASED, check=False, backend=backend)
    ops.refine(maps, PAPER, image_side=1024.0, check=False, backend=backend)
    ops.refine(maps, DEFAULT, guide=guide, check=False, backend=backend)
    large, large_guide = (torch.rand(count, LARGE_SIDE, LARGE_SIDE, generator=random).to(device) for count in (1, 3))
    ops.guided_filter(large, large_guide, backend=backend)
    ops.rank_filter(maps, 3, backend=backend)
    boxes = grid_boxes((side, side), PIXELS).to(device)
    image = torch.zeros(*PIXELS, 3, dtype=torch.uint8).to(device)
    ops.overlay(maps[:1], image, boxes, check=False, backend=backend)
    ops.upsample(maps[:1], boxes, PIXELS, check=False, backend=backend)


def main(side: str, *targets: str) -> None:
    """See the module's docstring."""
    for count in targets:
        run("cuda", "cuda", int(side), int(count))
    torch.cuda.synchronize()


if __name__ == "__main__":
    main(*sys.argv[1:])
