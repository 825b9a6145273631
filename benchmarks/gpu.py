"""Tests and benchmarks on a GPU: `python benchmarks/gpu.py`. Correctness first, then all timings, in under 8 minutes.

Needs a checkout and torch with CUDA, and no network. It builds the package in `build/lib` for this GPU and writes
`benchmarks/results/DATE-DEVICE.json`, with a copy in the folder $OUT if set. Exit codes: 0 all correct, 1 something is
wrong, 3 no GPU.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "build" / "lib"
NO_GPU = 3
TOTAL_S = 450.0
# Maximum seconds of each stage.
BUDGETS = {"build": 150.0, "tests": 120.0, "sanitizer": 60.0, "ncu": 40.0}

# Calls of the main ops, for compute-sanitizer and ncu.
CALLS = """
from dcam_fast.benchmarks.op_cases import BenchmarkCase, make_inputs
from dcam_fast.benchmarks.implementations import available_backends, _backend_call
for case in (BenchmarkCase("op", "pool", "pooled", {T}, (27, 27), 4096, "bfloat16"),
             BenchmarkCase("op", "refine", "released", {T}, (48, 48)),
             BenchmarkCase("op", "refine", "default", {T}, (48, 48)),
             BenchmarkCase("op", "guided_filter", "default", {T}, (96, 96)),  # fields in global memory
             BenchmarkCase("op", "overlay", "turbo", 1, (27, 27), image=(1080, 1920))):
    inputs = make_inputs(case, "cuda")
    for backend in available_backends("cuda"):
        _backend_call(backend)(case, inputs)()
import torch; torch.cuda.synchronize()
"""


@dataclass(frozen=True)
class StageResult:
    """How a command ended; `code` is None if it did not finish in time."""

    name: str
    code: int | None
    output: str
    note: str


def environment() -> dict[str, str]:
    """The environment of all stages: imports the package from `build/lib`, installed or not."""
    return {**os.environ, "PYTHONPATH": str(BUILT), "PYTHONSAFEPATH": "1"}


def stage(name: str, command: list[str], seconds: float) -> StageResult:
    """Runs a command for at most `seconds`."""
    print(f"gpu: {name}", flush=True)
    if seconds <= 0:
        return StageResult(name, None, "", f"{name}: not run, no time left")
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment(), timeout=seconds, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as cut:
        output = cut.stdout.decode(errors="replace") if isinstance(cut.stdout, bytes) else cut.stdout or ""
        return StageResult(name, None, output, f"{name}: cut after {seconds:.0f} s, result unknown")
    lines = done.stdout.strip().splitlines() or [""]
    return StageResult(name, done.returncode, done.stdout, f"{name}: exit code {done.returncode}, {lines[-1][:200]}")


def tool(name: str) -> str | None:
    """A CUDA tool from PATH or from the toolkit."""
    folders = [os.environ.get("PATH", ""), str(Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin")]
    return shutil.which(name, path=os.pathsep.join(folders))


def sanitizer_errors(output: str) -> int | None:
    """The error count in the last line of compute-sanitizer, if any."""
    counts = re.findall(r"(?:ERROR SUMMARY|RACECHECK SUMMARY): (\d+) ", output)
    return int(counts[-1]) if counts else None


def ncu_summary(output: str) -> list[str]:
    """One line per kernel from the CSV of ncu: share of the memory bandwidth, occupancy, duration."""
    lines = output.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        return []
    kernels: dict[tuple[str, str], dict[str, str]] = {}
    for row in csv.DictReader(lines[start:]):
        if row.get("Metric Name") and row.get("ID"):
            value = f"{row['Metric Value']} {row['Metric Unit']}"
            kernels.setdefault((row["ID"], row["Kernel Name"]), {})[row["Metric Name"]] = value
    return [f"ncu {name}: " + ", ".join(f"{k} {v}" for k, v in found.items()) for (_, name), found in kernels.items()]


METRICS = (
    "dram__throughput.avg.pct_of_peak_sustained_elapsed,sm__warps_active.avg.pct_of_peak_sustained_active,"
    "gpu__time_duration.sum,dram__bytes.sum.per_second"
)


def check(started: float) -> tuple[list[str], bool]:
    """Runs the tests, then compute-sanitizer and ncu if installed. Returns notes, and whether all that ran passed."""

    def left(name: str) -> float:
        return min(BUDGETS[name], TOTAL_S - (time.monotonic() - started))

    def calls_command(T: int) -> list[str]:
        return [sys.executable, "-c", CALLS.format(T=T)]

    notes, right = [], True
    missing = [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]
    if "pytest" in missing:
        notes.append("tests: not run, pytest is not installed; every timing is still checked against the reference")
    else:
        if missing:
            notes.append("tests: hypothesis is not installed, files that need it are skipped")
        skipped = [f"--ignore={path}" for path in hypothesis_files()] if missing else []
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests", *skipped]
        done = stage("tests", [*command, "-o", "addopts=--import-mode=importlib"], left("tests"))
        notes.append(done.note)
        right = done.code == 0
    sanitizer, profiler = tool("compute-sanitizer"), tool("ncu")
    for kind in ("memcheck", "racecheck", "initcheck", "synccheck") if sanitizer else ():
        command = [str(sanitizer), "--tool", kind, *calls_command(2)]
        done = stage(kind, command, left("sanitizer"))
        errors = sanitizer_errors(done.output)
        notes.append(done.note if errors is None else f"compute-sanitizer {kind}: {errors} errors")
        right &= errors == 0
    if profiler:
        done = stage("ncu", [profiler, "--csv", "--metrics", METRICS, *calls_command(16)], left("ncu"))
        notes += ncu_summary(done.output) or [done.note]
    notes += [
        f"{name}: not installed" for name, found in (("compute-sanitizer", sanitizer), ("ncu", profiler)) if not found
    ]
    return notes, right


def hypothesis_files() -> list[str]:
    """Test files that cannot be imported without hypothesis."""
    files = (ROOT / "tests").rglob("*.py")
    return [str(path.relative_to(ROOT)) for path in sorted(files) if "import hypothesis" in (t := path.read_text())
            or "from hypothesis" in t]  # fmt: skip


def main() -> int:
    """See the module's docstring."""
    started = time.monotonic()
    import torch

    if not torch.cuda.is_available():
        print("gpu: torch finds no GPU, nothing was run")
        return NO_GPU
    notes = []
    major, minor = torch.cuda.get_device_capability()
    os.environ.setdefault("DCAM_ARCHS", f"{major}{minor}" + ("a" if major >= 9 else ""))
    built = stage("build", [sys.executable, "setup.py", "build", "--build-lib", str(BUILT)], BUDGETS["build"])
    notes.append(built.note)
    sys.path.insert(0, str(BUILT))
    from dcam_fast.benchmarks.files import write
    from dcam_fast.benchmarks.suite import BenchmarkPlan, run

    found, right = check(started)
    left = max(60.0, TOTAL_S - (time.monotonic() - started))
    results = run(
        BenchmarkPlan("cuda", total_s=left, max_samples=1000, min_samples=200),
        lambda name: print(f"gpu: {name}", flush=True),
    )
    results = replace(results, notes=[*notes, *found, *results.notes])
    stem = f"{date.today()}-{re.sub(r'[^a-z0-9]+', '-', results.machine['device'].lower())}"
    for path in write(results, ROOT / "benchmarks" / "results", stem):
        print(path.relative_to(ROOT))
        if os.environ.get("OUT"):
            shutil.copy(path, os.environ["OUT"])
    from rich.console import Console

    from dcam_fast.benchmarks.tables import terminal

    Console(width=140).print(terminal(results))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
