"""What every compiled CUDA kernel takes on every architecture, read from the extension itself."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dcam_fast.ops import _faces

# bytes that a kernel may declare without asking at launch; what `refine` asks for beyond it is checked where it asks
STATIC_SHARED = 48 * 1024
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
    if _faces.native is None or not _faces.native.cuda_archs:
        pytest.skip("the extension has no CUDA kernels")
    tool = _cuobjdump()
    if tool is None:
        pytest.skip("no cuobjdump, neither of a CUDA toolkit nor of triton")
    listing = subprocess.run([tool, "-res-usage", _faces.native.__file__], capture_output=True, text=True, check=True)
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
    archs = {f"sm_{arch}" for arch in _faces.native.cuda_archs.split()}
    assert {arch for arch, _ in usage} == archs
    named = ("pool_rows", "pool_product", "pool_partial_weights", "pool_normalise", "refine_map", "rank_filter_maps")
    for arch in archs:
        kernels = [kernel for at, kernel in usage if at == arch]
        assert len(kernels) == len(usage) / len(archs)
        for name in (*named, "overlay_tile", "upsample_pixels"):
            assert any(name in kernel for kernel in kernels), name


def test_no_spills(usage):
    """No stack frame and no local memory in any kernel."""
    assert {key: used for key, used in usage.items() if used["STACK"] > 0 or used["LOCAL"] > 0} == {}


def test_limits(usage):
    for key, used in usage.items():
        assert used["SHARED"] <= STATIC_SHARED, key
        assert used["REG"] <= REGISTERS, key


def test_loads_beside_this_torch(tmp_path):
    """The module needs no CUDA library of torch's, and the face says why it is not usable."""
    if _faces.native is None or not _faces.native.cuda_archs:
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
