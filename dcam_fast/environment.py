"""What is installed and built, which backends are available, and why others are not."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass

import torch

from dcam_fast._version import __version__
from dcam_fast.ops import _backends
from dcam_fast.ops.threads import get_num_threads


@dataclass(frozen=True)
class Environment:
    """Facts about this installation. `print` shows them as a table.

    Attributes:
        versions: of the package, Python and the dependencies; None for a package that is not installed.
        extension: file of the compiled extension; None if it was not built.
        extension_missing: why the extension is not available; None if it is.
        cpu_kernels: the instruction set that the CPU kernels use.
        cuda_archs: the architectures that CUDA kernels were compiled for.
        backends: every backend of the ops, with the reason why it is unavailable, or None if it is available.
        forced_backend: the value of DCAM_BACKEND.
        threads: number of threads of torch.
        op_threads: number of threads of the ops on CPU tensors.
        devices: the devices that torch finds.
    """

    versions: dict[str, str | None]
    extension: str | None
    extension_missing: str | None
    cpu_kernels: str | None
    cuda_archs: tuple[str, ...]
    backends: dict[str, str | None]
    forced_backend: str | None
    threads: int
    op_threads: int
    devices: tuple[str, ...]

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version or '-'}" for name, version in self.versions.items())
        rows = [
            ("versions", versions),
            ("extension", self.extension or f"not built: {self.extension_missing}"),
            ("CPU kernels", self.cpu_kernels or "none"),
            ("CUDA kernels", " ".join(self.cuda_archs) or "none compiled"),
            *(
                (f"backend {name}", "available" if reason is None else f"unavailable: {reason}")
                for name, reason in self.backends.items()
            ),
            ("backend", self.forced_backend or "chosen by device"),
            ("threads", f"{self.threads} of torch, {self.op_threads} of the CPU kernels"),
            ("devices", ", ".join(self.devices)),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def env() -> Environment:
    """Facts about this installation.

    >>> env().backends["reference"] is None
    True
    """
    native = _backends.native
    devices = ["cpu"]
    for kind, module in (("cuda", torch.cuda), ("xpu", torch.xpu)):
        devices += [f"{kind}:{i} {module.get_device_name(i)}" for i in range(module.device_count())]
    return Environment(
        versions={
            "dcam_fast": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in ("torch", "numpy", "transformers", "triton")},
        },
        extension=None if native is None else native.__file__,
        extension_missing=_backends.native_error,
        cpu_kernels=None if native is None else native.cpu_kernels(),
        cuda_archs=() if native is None else tuple(native.cuda_archs.split()),
        backends={name: backend.unavailable_reason() for name, backend in _backends.BACKENDS.items()},
        forced_backend=_backends.FORCED,
        threads=torch.get_num_threads(),
        op_threads=get_num_threads(),
        devices=tuple(devices),
    )
