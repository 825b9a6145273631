"""The backends of this machine: every op test runs each of them against the reference."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from dcam_fast.ops import _backends


@dataclass(frozen=True)
class Backend:
    """A backend, the device to put tensors on, and for the CPU the instruction set."""

    backend: str
    device: str
    kernels: str | None = None

    def __str__(self) -> str:
        return self.backend if self.kernels is None else f"{self.backend}-{self.kernels}"

    @contextlib.contextmanager
    def rank_kernel(self, widest: int) -> Iterator[None]:
        """Around calls that may need a rank kernel of `widest` cells: Triton has those of 3 and 5, and raises
        for others (which ends the block there)."""
        if self.backend != "triton" or widest <= 5:
            yield
            return
        with pytest.raises(ValueError, match=f"must be at most 5 with backend 'triton', got {widest}; .* can$"):
            yield


def _device(backend: _backends.Backend) -> str:
    """The first available device that a backend serves."""
    for device in backend.devices or ():
        if device == "cpu" or torch.get_device_module(device).is_available():
            return device
    return "cpu"


def _as_param(backend: Backend) -> object:
    return backend if backend.device == "cpu" else pytest.param(backend, marks=pytest.mark.gpu)


def _available_backends() -> list[Backend]:
    found = []
    for name, backend in _backends.BACKENDS.items():
        if name == "reference" or backend.unavailable_reason() is not None:
            continue
        if name == "cpu":
            best = _backends.native.cpu_kernels()
            sets = [kernels for kernels in ("avx512", "avx2", "base") if _backends.native.use_cpu_kernels(kernels)]
            _backends.native.use_cpu_kernels(best)
            found += [Backend(name, "cpu", kernels) for kernels in sets]
        else:
            found.append(Backend(name, _device(backend)))
    return found


_NO_BACKEND = pytest.param(None, marks=pytest.mark.skip(reason="only the reference can run here: no extension, no GPU"))


@pytest.fixture(params=[*map(_as_param, _available_backends())] or [_NO_BACKEND], ids=str)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    backend: Backend = request.param
    if backend.kernels is None:
        yield backend
        return
    best = _backends.native.cpu_kernels()
    _backends.native.use_cpu_kernels(backend.kernels)
    yield backend
    _backends.native.use_cpu_kernels(best)


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parents[1] / "data" / "golden_public.npz") as data:
        return dict(data)


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(20240611)
