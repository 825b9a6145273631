"""Installing where something is missing: it ends in a working install, or in one line that says what to type."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
setuptools = pytest.importorskip("setuptools", reason="setuptools is not installed, and builds the package")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What the build reads, in a folder whose name has a space."""
    target = tmp_path / "a check out"
    unwanted = shutil.ignore_patterns("*.so", "__pycache__", "results")
    for name in ("dcam_fast", "csrc", "kernels", "benchmarks"):
        shutil.copytree(ROOT / name, target / name, ignore=unwanted)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, target)
    return target


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has setuptools and neither torch nor pybind11."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    installed = Path(setuptools.__file__).parents[1]
    for path in (installed / "_distutils_hack", *installed.glob("setuptools*")):
        (packages / path.name).symlink_to(path)
    return folder


def build(bare: Path, source: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("DCAM_EXTENSION", "PYTHONPATH")}
    return subprocess.run(
        [bare / "bin" / "python", "setup.py", "-q", *command],
        cwd=source,
        env=environment | {"DCAM_CUDA": "0"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def wheel(source: Path) -> tuple[str, set[str]]:
    """The name of the only wheel, and the files in it."""
    (path,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return path.name, set(archive.namelist())


def test_sdist_without_torch(bare: Path, source: Path) -> None:
    done = build(bare, source, "sdist")
    assert done.returncode == 0, done.stderr
    (path,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(path) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {str(p.relative_to(source)) for p in (source / "csrc").rglob("*") if p.is_file()}
    wanted |= {str(p.relative_to(source)) for p in source.rglob("*.py")}
    wanted |= {
        "dcam_fast/output/templates/viewer.html",
        "dcam_fast/output/templates/viewer/app.js",
        "dcam_fast/py.typed",
        "pyproject.toml",
        "LICENSE",
        "README.md",
    }
    assert wanted <= files


def test_wheel_without_torch_says_what_to_type(bare: Path, source: Path) -> None:
    if runpy.run_path(str(ROOT / "setup.py"))["unavailable_reason"]():
        pytest.skip("no C++ compiler or no Python.h, so that torch is not asked for")
    done = build(bare, source, "bdist_wheel")
    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    assert last.startswith("dcam_fast: the build needs torch>=2.11, and finds none in ")
    assert "; type: pip install 'setuptools>=77' 'pybind11>=2.13' 'torch>=2.11', then " in last
    assert "Traceback" not in done.stderr


def test_wheel_beside_an_old_torch(bare: Path, source: Path, tmp_path: Path) -> None:
    if runpy.run_path(str(ROOT / "setup.py"))["unavailable_reason"]():
        pytest.skip("no C++ compiler or no Python.h, so that torch is not asked for")
    torch = tmp_path / "path" / "torch"
    torch.mkdir(parents=True)
    (torch / "__init__.py").touch()
    (torch / "version.py").write_text("__version__ = '2.10.1+cu126'\n")
    done = build(bare, source, "bdist_wheel", PYTHONPATH=str(torch.parent))
    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    assert last == "dcam_fast: torch must be 2.11 or later, got 2.10.1+cu126; type: pip install 'torch>=2.11'"


@pytest.mark.parametrize(
    ("variables", "notice"),
    [
        ({"DCAM_EXTENSION": "0"}, ""),
        (
            {"CXX": "/nowhere/c++ -pthread"},
            "dcam_fast: no C++ compiler /nowhere/c++ (apt-get install g++): no extension",
        ),
    ],
)
def test_wheel_without_extension(bare: Path, source: Path, variables: dict[str, str], notice: str) -> None:
    done = build(bare, source, "bdist_wheel", **variables)
    assert done.returncode == 0, done.stderr
    assert notice in done.stderr
    assert ("no extension" in done.stderr) == bool(notice)
    name, files = wheel(source)
    assert name.endswith("-py3-none-any.whl")
    assert {
        "dcam_fast/kernels/tuning.json",
        "dcam_fast/benchmarks/suite.py",
        "dcam_fast/output/templates/viewer.html",
        "dcam_fast/output/templates/viewer/app.js",
    } <= files
    assert {path.split("/")[0] for path in files} == {"dcam_fast", name.partition("-py3")[0] + ".dist-info"}


def test_missing_header(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unavailable_reason = runpy.run_path(str(ROOT / "setup.py"))["unavailable_reason"]
    monkeypatch.setenv("CXX", sys.executable)  # there, which is all that is looked at
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(tmp_path))
    assert unavailable_reason() == f"no Python.h in {tmp_path} (apt-get install python3-dev)"
    (tmp_path / "Python.h").touch()
    assert unavailable_reason() is None
