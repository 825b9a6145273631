"""Every kernel and dtype compiles for every architecture, without a GPU, and stays within its registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARCHS = ("sm_80", "sm_90", "sm_100", "gfx942")
KERNELS = {
    "weights_kernel",
    "rows_kernel",
    "product_kernel",
    "normalize_kernel",
    "refine_kernel",
    "rank_filter_kernel",
    "guide_kernel",
    "fit_kernel",
    "apply_kernel",
    "axes_kernel",
    "upsample_kernel",
    "overlay_kernel",
}
# What every block may have on every GPU here, without asking for more.
SHARED_BYTES = 48 * 1024
REGISTER_FILE = 65536


def compile_for(arch: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, Path(__file__).with_name("compile_kernels.py"), arch],
        cwd=ROOT,
        env=environment | {"PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def compilations():
    with ThreadPoolExecutor(2) as pool:
        yield {arch: pool.submit(compile_for, arch) for arch in ARCHS}


@pytest.mark.parametrize("arch", ARCHS)
def test_compiles(compilations: dict[str, Future], arch: str):
    done = compilations[arch].result()
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["kernel"] for row in rows} == KERNELS
    lanes = 64 if arch.startswith("gfx") else 32
    for row in rows:
        assert row["spilled"] == 0, row
        assert row["shared"] <= SHARED_BYTES, row
        if lanes == 32:
            assert row["registers"] * lanes * row["warps"] <= REGISTER_FILE, row
    for kernel in sorted(KERNELS):
        variants = [row for row in rows if row["kernel"] == kernel]
        most = {name: max(row[name] for row in variants) for name in ("registers", "shared", "spilled")}
        print(f"{arch:7} {kernel:19} {len(variants):3} variants, at most {most}")
