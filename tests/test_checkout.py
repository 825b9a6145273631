"""A checkout on the path of Python, as with `python -m`, hides no other packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def loaded(code: str, *folders: Path) -> str:
    """What `code` prints where the checkout is on the path before the other folders, and is the working directory."""
    path = os.pathsep.join(map(str, [ROOT, *folders, *sys.path]))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_kernels_of_hugging_face_are_found(tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("get_kernel = 1\n")
    code = "import dcam_fast, kernels; print(kernels.__file__)"
    assert loaded(code, tmp_path) == str(tmp_path / "kernels" / "__init__.py")


def test_only_this_projects_names_are_importable() -> None:
    """Any other name would hide a package of that name in this folder."""
    if not (ROOT / "setup.py").exists():
        pytest.skip("the tests are not in a checkout")
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages <= {"dcam_fast", "benchmarks"}
    assert {path.name for path in ROOT.glob("*.py")} <= {"setup.py"}
