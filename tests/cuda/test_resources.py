"""What every compiled CUDA kernel takes on every architecture, read from the extension itself."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dcam_fast.config import KERNEL_SIZES, PAPER, RELEASED, UNGUIDED
from dcam_fast.ops import _backends

STATIC_SHARED = 48 * 1024  # bytes that a kernel may declare without asking at launch
# Bytes that a block may have in all on each architecture.
SHARED = {"sm_80": 163 * 1024, "sm_90a": 227 * 1024, "sm_100a": 227 * 1024}
RESERVED = {"sm_80": 0, "sm_90a": 1024, "sm_100a": 1024}  # CUDA's own bytes on top of these, where listings count them
REGISTERS = 255


def _cuobjdump() -> str | None:
    homes = [Path(home) / "bin" for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]
    found = shutil.which("cuobjdump", path=os.pathsep.join([*map(str, homes), os.environ.get("PATH", "")]))
    spec = importlib.util.find_spec("triton")
    if found is None and spec is not None and spec.origin:
        beside = Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump"
        found = str(beside) if beside.exists() else None
    return found


@pytest.fixture(scope="module")
def usage() -> dict[tuple[str, str], dict[str, int]]:
    """(architecture, kernel) -> REG, STACK, SHARED, LOCAL and so on."""
    if _backends.native is None or not _backends.native.cuda_archs:
        pytest.skip("the extension has no CUDA kernels")
    tool = _cuobjdump()
    if tool is None:
        pytest.skip("no cuobjdump, neither of a CUDA toolkit nor of triton")
    listing = subprocess.run(
        [tool, "-res-usage", _backends.native.__file__], capture_output=True, text=True, check=True
    )
    found, arch, kernel = {}, "", ""
    for line in listing.stdout.splitlines():
        if match := re.match(r"arch = (\w+)", line):
            arch = match[1]
        elif match := re.match(r"\s*Function (\S+):", line):
            kernel = match[1]
        elif "REG:" in line:
            found[arch, kernel] = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)}
    return found


def test_every_architecture(usage):
    """All of them have the same kernels, and none of the launchers' is missing."""
    archs = {f"sm_{arch}" for arch in _backends.native.cuda_archs.split()}
    assert {arch for arch, _ in usage} == archs
    named = ("pool_rows", "pool_product", "pool_partial_weights", "pool_normalize", "refine_map", "rank_filter_maps")
    named += ("guide_windows", "guided_maps", "axes_of_boxes", "overlay_tile", "upsample_pixels")
    for arch in archs:
        kernels = [kernel for at, kernel in usage if at == arch]
        assert len(kernels) == len(usage) / len(archs)
        for name in named:
            assert any(name in kernel for kernel in kernels), name


def test_no_spills(usage):
    """No stack frame and no local memory in any kernel."""
    assert {key: used for key, used in usage.items() if used["STACK"] > 0 or used["LOCAL"] > 0} == {}


def test_limits(usage):
    for key, used in usage.items():
        assert used["SHARED"] <= STATIC_SHARED, key
        assert used["REG"] <= REGISTERS, key


def pool_launches(emulated: ctypes.CDLL) -> int:
    error = 0
    for aggregation in range(7):
        for T, N, D, dtype in ((1, 2304, 4096, 1), (64, 2304, 4096, 1), (3, 7, 5, 0)):
            block = [0, 0, 0, 0, 0, D, N * D, D, N, T, N, D, dtype, aggregation]
            error |= emulated.pool((ctypes.c_int64 * len(block))(*block), ctypes.c_int64(1), None)
    return error


def refine_launches(emulated: ctypes.CDLL) -> int:
    error = 0
    for config in (UNGUIDED, RELEASED, PAPER, replace(PAPER, step_ratio=0.02)):
        packed = (ctypes.c_double * len(config.packed))(*config.packed)
        for side in (27, 48, 64, 128):
            shape = [ctypes.c_int64(n) for n in (16, side, side)]
            numbers = [ctypes.c_float(0), ctypes.c_float(1024)]
            error |= emulated.refine(*[None] * 6, *shape, *numbers, packed)
    return error


def rank_filter_launches(emulated: ctypes.CDLL) -> int:
    shape = [ctypes.c_int64(n) for n in (16, 128, 128)]
    return sum(emulated.rank_filter(None, None, *shape, k) for k in KERNEL_SIZES)


def guided_launches(emulated: ctypes.CDLL) -> int:
    error = 0
    # 163 KiB hold 5,216 cells, 227 KiB 7,264
    for grid in ((27, 27), (64, 64), (16, 326), (16, 327), (16, 454), (16, 455), (128, 128)):
        shape = [ctypes.c_int64(n) for n in (16, *grid)]
        error |= emulated.guided_filter(None, None, None, *shape, 3, ctypes.c_float(1e-4))
    return error


def overlay_launches(emulated: ctypes.CDLL) -> int:
    boxes, box = (ctypes.c_float * 4)(0, 0, 3840, 2160), ctypes.c_int64(1)
    shape = [*[box] * 3, ctypes.c_int64(2160), ctypes.c_int64(3840)]
    images = (None, ctypes.c_void_p(16))
    return sum(emulated.overlay(None, one, boxes, None, None, None, *shape, ctypes.c_float(0.5)) for one in images)


LAUNCHES = {
    "pool": (pool_launches, ("pool_",), False),
    "refine": (refine_launches, ("refine_map",), True),
    "rank_filter": (rank_filter_launches, ("rank_filter_maps",), False),
    "guided_filter": (guided_launches, ("guide_windows", "guided_maps"), True),
    "overlay": (overlay_launches, ("axes_of_boxes", "overlay_tile", "upsample_pixels"), False),
}


@pytest.mark.parametrize("op", LAUNCHES)
def test_shared_memory_of_launches(usage, emulated, op):
    """Declared and launched shared memory is available on every architecture, and requested."""
    launch, kernels, dynamic = LAUNCHES[op]
    for arch in sorted({arch for arch, _ in usage} & SHARED.keys()):
        matching = [
            used for (at, name), used in usage.items() if at == arch and any(kernel in name for kernel in kernels)
        ]
        static = max(used["SHARED"] for used in matching) - RESERVED[arch]
        emulated.set_shared_limit(ctypes.c_int64(SHARED[arch]))
        emulated.set_dry(1)
        try:
            error, most, requested = launch(emulated), emulated.most_shared(), emulated.most_requested()
        finally:
            emulated.set_dry(0)
            emulated.set_shared_limit(ctypes.c_int64(max(SHARED.values())))
        assert error == 0
        assert (most > 0) == dynamic
        assert max(most, requested) + static <= SHARED[arch]


def test_loads_beside_this_torch(tmp_path):
    """The module needs no CUDA library of torch's, and the backend says why it is not usable."""
    if _backends.native is None or not _backends.native.cuda_archs:
        pytest.skip("the extension has no CUDA kernels")
    code = (
        "import torch; from dcam_fast import ops\n"
        "try: ops.rank_filter(torch.rand(1, 3, 3), 3, backend='cuda')\n"
        "except RuntimeError as error: print(error)"
    )
    variables = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=variables)
    assert re.match(
        r"rank_filter: backend must be one that can run here, got 'cuda': "
        r"(this torch was built without CUDA|torch finds no NVIDIA GPU); .*cpu.* can$",
        done.stdout.strip(),
    )
