"""The CUDA kernels compiled for the host (tests/cuda/emulator), so that every machine runs their very source."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
EMULATOR = Path(__file__).parent / "emulator"
SOURCES = [
    EMULATOR / "entries.cpp",
    *(ROOT / "csrc/dcam" / name for name in ("refine.cpp", "overlay.cpp")),
    *(ROOT / "csrc/dcam/cuda" / f"{name}.cu" for name in ("pool", "refine", "guided", "overlay")),
]


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("no C++ compiler (g++, or CXX) to run the CUDA kernels on the host with")
    folder = tmp_path_factory.mktemp("emulator")
    flags = ["-O1", "-std=c++20", "-fPIC", "-Wno-unknown-pragmas", f"-I{EMULATOR}", f"-I{ROOT / 'csrc'}"]

    def build(source: Path) -> str:
        target = folder / f"{source.parent.name}_{source.stem}.o"
        subprocess.run([compiler, *flags, "-x", "c++", "-c", str(source), "-o", str(target)], check=True)
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(build, SOURCES))
    library = folder / "emulated.so"
    subprocess.run([compiler, "-shared", *objects, "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(20240611)
