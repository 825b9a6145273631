"""Builds dcam_fast._C: CPU kernels with a C++ compiler, and CUDA kernels with nvcc, even if torch is CPU-only.

Only compiling needs torch: metadata, an sdist and an install without the extension do not.

Environment: DCAM_EXTENSION=0 (no extension: reference only), DCAM_CUDA=1/0 (force CUDA kernels on or off),
DCAM_ARCHS="80;90a;100a", DCAM_SANITIZE="address,undefined", MAX_JOBS, CUDA_HOME, CXX.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).parent.resolve()
ARCHS = os.environ.get("DCAM_ARCHS", "80;90a;100a").split(";")
SANITIZE = os.environ.get("DCAM_SANITIZE", "")
OLDEST_TORCH = (2, 11)
# One copy of the CPU kernels per instruction set; the best that the machine supports is chosen at run time.
ISA_FLAGS = {
    "isa_base.cpp": [],
    "isa_avx2.cpp": ["-mavx2", "-mfma", "-mf16c"],
    "isa_avx512.cpp": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"],
}


def unavailable_reason() -> str | None:
    """Why C++ cannot be compiled here, with the command to install what is missing; None if it can."""
    compiler = shlex.split(os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++")
    if not shutil.which(compiler[0]):
        return f"no C++ compiler {compiler[0]} (apt-get install g++)"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return f"no Python.h in {sysconfig.get_path('include')} (apt-get install python3-dev)"
    return None


@functools.cache
def folder_of(package: str, requirement: str) -> Path:
    """The folder of a package. pip's isolated build cannot import torch, but shares its site-packages path."""
    spec = importlib.util.find_spec(package)
    found = [Path(spec.origin).parent] if spec and spec.origin else []
    for folder in [*found, *(Path(sysconfig.get_path(key)) / package for key in ("platlib", "purelib"))]:
        if (folder / "__init__.py").exists():
            return folder
    sys.exit(
        f"dcam_fast: the build needs {requirement}, and finds none in {sysconfig.get_path('purelib')}; type: "
        "pip install 'setuptools>=77' 'pybind11>=2.13' 'torch>=2.11', then the same command again with "
        "--no-build-isolation (--no-isolation for python -m build)"
    )


@functools.cache
def torch_folder() -> Path:
    """The folder of the torch that the extension is linked to."""
    folder = folder_of("torch", "torch>=2.11")
    version = re.search(r"__version__ = '((\d+)\.(\d+)[^']*)'", (folder / "version.py").read_text())
    if version and (int(version[2]), int(version[3])) < OLDEST_TORCH:
        sys.exit(f"dcam_fast: torch must be 2.11 or later, got {version[1]}; type: pip install 'torch>=2.11'")
    return folder


@functools.cache
def find_nvcc() -> str | None:
    """The CUDA compiler, or None if CUDA kernels are not to be built."""
    requested = os.environ.get("DCAM_CUDA")
    if requested == "0":
        return None
    homes = [Path(home) / "bin" for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]
    nvcc = shutil.which("nvcc", path=os.pathsep.join([*map(str, homes), os.environ.get("PATH", "")]))
    if nvcc is None:
        # NVIDIA's compiler packages (the extra "nvcc"), beside torch or in the environment that is built in
        folders = dict.fromkeys([torch_folder().parent, Path(sysconfig.get_path("purelib"))])
        packaged = sorted(nvcc for folder in folders for nvcc in (folder / "nvidia").glob("*/bin/nvcc"))
        nvcc = str(packaged[-1]) if packaged else None
    if requested == "1" and nvcc is None:
        sys.exit("dcam_fast: DCAM_CUDA=1, but no nvcc in CUDA_HOME, /usr/local/cuda, on PATH or the packages")
    if nvcc is None:
        print("dcam_fast: no nvcc in CUDA_HOME, /usr/local/cuda, on PATH or the packages: built without CUDA kernels")
    return nvcc


def cuda_home(nvcc: str) -> Path:
    """The toolkit whose runtime is linked in."""
    toolkit = Path(nvcc).resolve().parent.parent
    return toolkit if (toolkit / "include/cuda_runtime_api.h").exists() else Path("/usr/local/cuda")


def sources() -> list[Path]:
    """All translation units; *_cuda.cpp and *.cu only if there is a CUDA compiler."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    plain = [p for p in (ROOT / "csrc").glob("**/*.cpp") if x86 or p.name not in ISA_FLAGS or p.name == "isa_base.cpp"]
    cuda = sorted((ROOT / "csrc").glob("**/*.cu")) if find_nvcc() else []
    return sorted(p for p in plain if cuda or not p.stem.endswith("_cuda")) + cuda


def is_current(target: Path, command: list[str]) -> bool:
    """Whether `target` was made by the same command from the same sources."""
    stamp, depfile = target.with_suffix(".command"), target.with_suffix(".d")
    if not (target.exists() and depfile.exists() and stamp.exists() and stamp.read_text() == shlex.join(command)):
        return False
    listed = depfile.read_text().replace("\\\n", " ").partition(": ")[2].strip()
    depends = [path.replace("\\ ", " ") for path in re.split(r"(?<!\\)\s+", listed)]
    made = target.stat().st_mtime
    return all(Path(p).exists() and Path(p).stat().st_mtime <= made for p in depends)


class Build(build_ext):
    """Compiles changed units in parallel, each with its compiler and flags."""

    def finalize_options(self) -> None:
        super().finalize_options()
        # an editable install uses a new folder each time, and would compile everything again
        self.build_temp = str(ROOT / "build")

    def compile_command(self, source: Path, target: Path, extension: Extension) -> list[str]:
        """The command that makes one object file and its depfile."""
        system_includes = [flag for folder in extension.include_dirs for flag in ("-isystem", folder)]
        includes = [f"-I{ROOT / 'csrc'}", *system_includes, *(f"-I{folder}" for folder in self.compiler.include_dirs)]
        output = ["-MMD", "-MF", str(target.with_suffix(".d")), "-c", str(ROOT / source), "-o", str(target)]
        if source.suffix == ".cu":
            nvcc = find_nvcc()
            assert nvcc
            targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in ARCHS]
            targets.append("-gencode=arch=compute_80,code=compute_80")
            host = ["-O3", "-std=c++17", "-Xcompiler", "-fPIC,-fvisibility=hidden", "--threads", "2"]
            return [nvcc, *host, *targets, f"-I{ROOT / 'csrc'}", *output]
        flags = [*extension.extra_compile_args, *ISA_FLAGS.get(source.name, [])]
        return [*self.compiler.compiler_so_cxx, *flags, *includes, *output]

    def build_extension(self, ext: Extension) -> None:
        configure(ext)
        key = hashlib.sha256(f"{SANITIZE} {ARCHS} {bool(find_nvcc())}".encode()).hexdigest()[:8]
        folder = Path(self.build_temp) / key
        folder.mkdir(parents=True, exist_ok=True)
        jobs = []
        for source in map(Path, ext.sources):
            target = folder.resolve() / f"{'_'.join(source.relative_to('csrc').parts)}.o"
            jobs.append((target, self.compile_command(source, target, ext)))

        def make(job: tuple[Path, list[str]]) -> None:
            target, command = job
            if not is_current(target, command):
                print(shlex.join(command), flush=True)
                target.with_suffix(".command").unlink(missing_ok=True)  # a killed compiler leaves an incomplete file
                if subprocess.run(command, check=False, cwd=ROOT).returncode:
                    raise CompileError(
                        f"dcam_fast: {command[0]} could not compile {target.stem}; see above "
                        "(DCAM_EXTENSION=0 installs without the extension)"
                    )
                target.with_suffix(".command").write_text(shlex.join(command))

        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
            list(pool.map(make, jobs))
        module = Path(self.get_ext_fullpath(ext.name))
        module.parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(
            [str(target) for target, _ in jobs],
            str(module),
            libraries=ext.libraries,
            library_dirs=ext.library_dirs,
            # libtorch.so must stay a direct dependency: a weak CUDA symbol is looked up through it
            extra_preargs=["-Wl,--no-as-needed"],
            extra_postargs=ext.extra_link_args,
            target_lang="c++",
        )


def configure(extension: Extension) -> None:
    """Set sources, flags and libraries of the extension: torch operators (stable ABI) and the pybind11 module."""
    optimize = ["-O3", "-g0"]
    if SANITIZE:
        optimize = [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined", "-O1", "-g"]
    flags = [
        "-std=c++20",
        "-pthread",
        "-fvisibility=hidden",
        "-fopenmp-simd",
        "-Wall",
        "-Wextra",
        "-Wno-psabi",
        "-Wno-maybe-uninitialized",
        f"-DTORCH_TARGET_VERSION=0x{OLDEST_TORCH[0]:02X}{OLDEST_TORCH[1]:02X}000000000000ULL",
    ]
    torch = torch_folder()
    # pybind11 first: the copy inside torch refuses TORCH_TARGET_VERSION
    includes = [folder_of("pybind11", "pybind11>=2.13") / "include", torch / "include"]
    libraries, folders = ["torch", "torch_cpu", "c10"], [torch / "lib"]
    if nvcc := find_nvcc():
        home = cuda_home(nvcc)
        includes.append(home / "include")
        folders += [home / "lib64", home / "lib"]  # of a toolkit, of a package
        libraries += ["cudart_static", "rt", "dl", "pthread"]
        flags.append(f'-DDCAM_CUDA_ARCHS="{" ".join(ARCHS)}"')
    extension.sources = [str(path.relative_to(ROOT)) for path in sources()]
    extension.include_dirs = list(map(str, includes))
    extension.library_dirs = list(map(str, folders))
    extension.libraries = libraries
    extension.extra_compile_args = [*flags, *optimize]
    extension.extra_link_args = ["-pthread", f"-fsanitize={SANITIZE}" if SANITIZE else "-s"]


def extensions() -> list[Extension]:
    """The extension, not yet configured; empty if it is switched off or, with a message, cannot be compiled."""
    if os.environ.get("DCAM_EXTENSION") == "0":
        return []
    reason = unavailable_reason()
    if reason:
        print(f"dcam_fast: {reason}: no extension, the ops run in plain PyTorch, which is slower", file=sys.stderr)
    return [] if reason else [Extension("dcam_fast._C", [], language="c++")]


if __name__ == "__main__":
    setup(
        # kernels/ and benchmarks/ are parts of the package by the links dcam_fast/kernels and dcam_fast/benchmarks
        packages=find_packages(include=["dcam_fast*"]),
        ext_modules=extensions(),
        cmdclass={"build_ext": Build},
    )
