"""Compiles every kernel for one GPU architecture, with no GPU, and prints what each needs as JSON.

The ops' own launch code runs, on CPU tensors, with Triton told to compile for the architecture and not to launch: what
is compiled is what a machine with such a GPU would compile. Run by test_compiles.py, in a separate process.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from dcam_fast.config import PAPER, RELEASED, UNGUIDED, RefineConfig
from dcam_fast.kernels import guided, overlay, pool, refine
from dcam_fast.ops import reference

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
run = JITFunction.run
compiled: list[tuple[str, str, triton.compiler.CompiledKernel]] = []
case = ""


class Driver:
    """Stands for that of the GPU to compile for."""

    def __init__(self, target: GPUTarget) -> None:
        self.get_current_target = lambda: target
        self.get_current_device = lambda: 0
        self.get_current_stream = lambda device=None: 0


def compile_only(self, *args, grid, warmup, **options):
    kernel = run(self, *args, grid=grid, warmup=True, **options)
    compiled.append((self.__name__, case, kernel))
    return kernel


def compile_all() -> None:
    global case
    cells = torch.arange(729)
    for dtype, name in itertools.product(DTYPES, reference.AGGREGATIONS):
        aggregation = reference.AGGREGATIONS.index(name)
        for T, gathered in ((1, False), (64, True)):
            case = f"{name} {dtype} T={T}"
            # a real model's sizes, in memory that is never touched
            A, G = torch.empty(2304, 4096, dtype=dtype), torch.empty(1, 2304, 4096, dtype=dtype).expand(T, 2304, 4096)
            pool.pool([A], [G], cells if gathered else None, aggregation, False)
    case = "separate activations"
    A = torch.empty(1, 2304, 4096, dtype=torch.bfloat16).expand(3, 2304, 4096)
    pool.pool([A], [A], None, 0, False)
    case = "sizes of one, which Triton compiles as constants"
    for name, T in itertools.product(("pooled", "layer_cam", "grad_cam"), (1, 9)):
        one, cell = torch.zeros(T, 1, 1), torch.zeros(1, dtype=torch.int64)
        flags = torch.zeros(T, dtype=torch.int32)
        pool.pool_out(torch.zeros(T, 1), flags, [one[0]], [one], cell, reference.AGGREGATIONS.index(name))
    # what is not launched leaves flags, and what is wrong with boxes, to chance
    with contextlib.suppress(ValueError):
        refine.refine(torch.zeros(1, 1, 1), PAPER.packed, None, 0.0, None, 384.0, True)
    refine.rank_filter(torch.zeros(1, 1, 1), 3)
    case = "two blocks, flags, odd sizes"
    A, G = torch.zeros(37, 33), torch.zeros(9, 37, 33)
    flags = torch.zeros(9, dtype=torch.int32)
    pool.pool_out(torch.zeros(9, 37), flags, [A, A], [G, G], None, 0)
    adaptive = RefineConfig(step_ratio=0.1, size="image", gating_sigma=0.3)
    plain = [("unguided", UNGUIDED), ("released", RELEASED), ("paper", PAPER)]
    for (name, config), side in itertools.product(plain, (16, 27, 64)):
        case = f"{name} {side}x{side}"
        refine.refine(torch.zeros(3, side, side), config.packed, None, 0.1, None, 384.0, False)
    for dtype in DTYPES[1:]:
        case = f"default {dtype}"
        refine.refine(torch.zeros(3, 27, 27, dtype=dtype), UNGUIDED.packed, None, 0.1, None, 0.0, False)
    case = "ragged, adaptive to 5"
    ratios, grids = torch.zeros(2), torch.tensor([[27, 27], [64, 64]])
    maps = torch.zeros(27 * 27 + 64 * 64)
    refine.refine(maps, adaptive.packed, grids, 0.0, ratios, 512.0, False)
    for k, dtype in itertools.product((3, 5), DTYPES):
        case = f"k={k} {dtype}"
        refine.rank_filter(torch.zeros(3, 27, 27, dtype=dtype), k)
    for dtype, side in itertools.product(DTYPES, (1, 27)):
        case = f"{dtype} {side}x{side}"
        guided.guided_filter(torch.zeros(side, side, side, dtype=dtype), torch.zeros(3, side, side), 3, 1e-4)
    axes = overlay._axes
    overlay._axes = lambda *args: (torch.zeros(0, dtype=torch.int32), torch.zeros(0), torch.zeros(2, 2))
    boxes, image = torch.zeros(27, 27, 4), torch.zeros(768, 1024, 3, dtype=torch.uint8)
    table = torch.zeros(256, 3, dtype=torch.uint8)
    for dtype in DTYPES:
        case = str(dtype)
        overlay.overlay(torch.zeros(3, 27, 27, dtype=dtype), image, boxes, table, 0.5, True)
        overlay.upsample(torch.zeros(3, 27, 27, dtype=dtype), boxes, 768, 1024, True)
    case = "one cell, one pixel"
    overlay.overlay(torch.zeros(1, 1, 1), image[:1, :1], boxes[:1, :1], table, 1.0, True)
    overlay.upsample(torch.zeros(1, 1, 1), boxes[:1, :1], 1, 1, True)
    overlay._axes = axes
    for cells, pixels in ((27, 768), (1, 1)):
        with contextlib.suppress(ValueError):
            overlay.upsample(torch.zeros(1, cells, cells), boxes[:cells, :cells], pixels, pixels, True)


def needs(kernel: triton.compiler.CompiledKernel, folder: Path) -> dict[str, int]:
    """Registers of a thread, and bytes (NVIDIA) or registers (AMD) spilled."""
    if "cubin" not in kernel.asm:
        found = dict(re.findall(r"\.(vgpr_count|vgpr_spill_count|sgpr_spill_count): +(\d+)", kernel.asm["amdgcn"]))
        spilled = int(found["vgpr_spill_count"]) + int(found["sgpr_spill_count"])
        return {"registers": int(found["vgpr_count"]), "spilled": spilled}
    binary, source = folder / "kernel.cubin", folder / "kernel.ptx"
    binary.write_bytes(kernel.asm["cubin"])
    usage = subprocess.run([TOOLS / "cuobjdump", "-res-usage", binary], capture_output=True, text=True, check=True)
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage.stdout).groups())
    spilled = 0
    if stack:
        # what is spilled lies on the stack; the assembler knows whether that is what it is for
        source.write_text(kernel.asm["ptx"])
        arch = re.search(r"\.target (sm_\w+)", kernel.asm["ptx"])[1]
        assembler = "ptxas-blackwell" if arch.startswith("sm_10") else "ptxas"
        verbose = subprocess.run(
            [TOOLS / assembler, "-v", "--gpu-name", arch, source, "-o", folder / "again.cubin"],
            capture_output=True,
            text=True,
            check=True,
        )
        spilled = int(re.search(r"(\d+) bytes spill stores", verbose.stderr)[1])
    return {"registers": registers, "spilled": spilled}


def main(arch: str) -> None:
    target = TARGETS[arch]
    driver.set_active(Driver(target))
    JITFunction.run = compile_only
    compile_all()
    rows, known = [], set()
    with tempfile.TemporaryDirectory() as folder:
        for name, of, kernel in compiled:
            if kernel.hash in known:
                continue
            known.add(kernel.hash)
            row = {"kernel": name, "case": of, "shared": kernel.metadata.shared, "warps": kernel.metadata.num_warps}
            rows.append(row | needs(kernel, Path(folder)))
    json.dump(rows, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
