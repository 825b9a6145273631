"""tools/fuzz: its targets agree, and a failing call is named and fails again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BROKEN = """
import sys
sys.path.insert(0, {tools!r})
from fuzzing import ops, runner
def broken(rng):
    assert rng.random() > 0.05, "wrong"
ops.TARGETS["broken"] = broken
sys.exit(runner.main(sys.argv[1:]))
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-P", *command], cwd=ROOT, capture_output=True, text=True)


def test_all_targets_agree():
    result = run("tools/fuzz", "--calls", "200", "--seed", "1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "refine: 200 calls, 0 failed" in result.stdout


def test_a_failure_is_repeated():
    script = BROKEN.format(tools=str(ROOT / "tools"))
    found = run("-c", script, "--target", "broken", "--calls", "200")
    assert found.returncode == 1
    line = next(line for line in found.stdout.splitlines() if "again: " in line)
    again = run("-c", script, *line.split("tools/fuzz ")[1].split())
    assert again.returncode == 1
    assert "broken: 1 calls, 1 failed" in again.stdout
