"""The script `run` before it sets anything up; what it sets up is what these tests run in."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    if not (ROOT / "run").exists():
        pytest.skip("the tests are not in a checkout")
    folder = tmp_path / "a check out"
    (folder / "csrc").mkdir(parents=True)
    for name in ("run", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script where nothing says where the user's home is, and no Python is named that is there."""
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    return subprocess.run(
        [checkout / "run", *arguments],
        env=environment | {"PYTHON": "nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help(checkout: Path) -> None:
    done = run(checkout, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ./run demo")


def test_another_ones_environment_is_left_alone(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "pyvenv.cfg").touch()
    done = run(checkout, "dcam-fast", "env")
    assert done.returncode == 1
    assert done.stderr == "run: .venv exists, but was not made by this script: move it away\n"
    assert (checkout / ".venv" / "pyvenv.cfg").exists()


def test_an_interrupted_set_up_starts_over(checkout: Path) -> None:
    (checkout / ".venv").mkdir()  # all that is there where it was stopped at once
    (checkout / ".venv.old").mkdir()
    done = run(checkout, "dcam-fast", "env")
    assert done.returncode == 1
    assert done.stderr == "run: Python 3.11 or later is needed, got nowhere; PYTHON=... names another\n"
