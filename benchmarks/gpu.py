"""Tests and benchmarks on a GPU, in two stages of minutes: `python benchmarks/gpu.py --stage first`, then `second`.

The first stage builds the extension in place for this GPU, runs the tests, and times the cases that have targets first.
The second runs compute-sanitizer, ncu, the attribution pass and the other cases. Both together fit a quarter of an
hour. Needs a checkout and torch with CUDA, and no network.

Every command has a separate process and a time limit. What it prints and measures is in the folder $OUT, or
`build/gpu`, as soon as it is there; at the end all timings are in `benchmarks/results/DATE-DEVICE-STAGE.json`. Exit
codes: 0 all correct, 1 something is wrong, 3 no GPU.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dcam_fast.benchmarks.results import Results

ROOT = Path(__file__).resolve().parent.parent
NO_GPU = 3
# Maximum seconds of a stage. Of 15 minutes, two are for a machine's start.
STAGE_S = {"first": 480.0, "second": 270.0}
FINISH_S = 10.0  # of it, to write the results
# The cases of each stage: what their names contain, and seconds. What matters most comes first.
GROUPS = {
    "first": (
        ("48x48 D=4096 bfloat16 T=64", 40.0),
        ("48x48 D=4096 bfloat16 T=1", 40.0),
        ("48x48 float32", 35.0),
        ("explanation", 20.0),
        ("27x27 D=4096", 40.0),
        ("px", 15.0),
    ),
    "second": (
        ("27x27 float32", 30.0),
        ("64x64", 20.0),
        ("128x128", 20.0),
        ("16x16", 20.0),
        ("D=1024", 10.0),
    ),
}
GROUP_START_S = 20.0  # imports, limits of the machine, Triton's compiler
KERNELS = "regex:pool_|refine_map|guide|rank_filter|overlay|upsample|axes"
METRICS = (
    "dram__throughput.avg.pct_of_peak_sustained_elapsed,sm__warps_active.avg.pct_of_peak_sustained_active,"
    "gpu__time_duration.sum,dram__bytes.sum.per_second"
)


@dataclass(frozen=True)
class Step:
    """A command of a stage.

    Attributes:
        name: in notes, and of the file that has what it prints.
        command: program and arguments.
        seconds: it may take.
        right: whether a failure of it means that something is wrong.
    """

    name: str
    command: list[str]
    seconds: float
    right: bool = True


@dataclass(frozen=True)
class Outcome:
    """How a command ended; `code` is None if it did not finish in time."""

    code: int | None
    output: str
    note: str


def environment() -> dict[str, str]:
    """The environment of all commands: imports the package from this checkout, installed or not."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}


def execute(step: Step, seconds: float) -> Outcome:
    """Runs a command, and whatever it starts, for at most `seconds`."""
    print(f"gpu: {step.name}", flush=True)
    if seconds <= 0:
        return Outcome(None, "", f"{step.name}: not run, no time left")
    process = subprocess.Popen(
        step.command, cwd=ROOT, env=environment(), text=True, errors="replace", stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return Outcome(None, output, f"{step.name}: cut after {seconds:.0f} s, result unknown")
    lines = output.strip().splitlines() or [""]
    return Outcome(process.returncode, output, f"{step.name}: exit code {process.returncode}, {lines[-1][:200]}")


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


def hypothesis_files() -> list[str]:
    """Test files that cannot be imported without hypothesis."""
    files = (ROOT / "tests").rglob("*.py")
    return [str(path.relative_to(ROOT)) for path in sorted(files) if "import hypothesis" in (t := path.read_text())
            or "from hypothesis" in t]  # fmt: skip


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"dcam_fast.benchmarks.{name}", *arguments]


def _pytest(expression: str, workers: int) -> list[str]:
    """The GPU tests whose names match, in several processes if pytest-xdist is there."""
    has = {name: importlib.util.find_spec(name) is not None for name in ("hypothesis", "xdist")}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-k", expression, "tests", "-p", "no:cacheprovider"]
    command += ["-o", "addopts=--import-mode=importlib"]
    command += [] if has["hypothesis"] else [f"--ignore={path}" for path in hypothesis_files()]
    return command + (["-n", str(min(workers, os.cpu_count() or 1))] if has["xdist"] else [])


def group_file(folder: Path, stage: str, index: int) -> Path:
    """Where a group of cases has its results."""
    return folder / f"{stage}-group-{index}.json"


def _groups(stage: str, folder: Path) -> Iterator[Step]:
    for index, (only, seconds) in enumerate(GROUPS[stage]):
        command = _module("gpu_group", only, str(seconds), str(group_file(folder, stage, index)))
        yield Step(f"cases {only}", command, seconds + GROUP_START_S)


def steps(stage: str, folder: Path) -> Iterator[Step]:
    """The commands of a stage, in their order."""
    if stage == "first":
        yield Step("build", [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], 120.0)
        if importlib.util.find_spec("pytest"):
            yield Step("tests of CUDA", _pytest("not triton", 6), 110.0)
        yield from _groups(stage, folder)
        if importlib.util.find_spec("pytest"):  # Triton compiles hundreds of kernels for them
            yield Step("tests of Triton", _pytest("triton", 12), 130.0)
        return
    if sanitizer := tool("compute-sanitizer"):
        # without torch's cache of freed memory an access beyond a tensor is an access beyond an allocation
        command = ["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", sanitizer, "--error-exitcode", "1", "--tool"]
        for kind in ("memcheck", "racecheck", "synccheck", "initcheck"):
            yield Step(kind, [*command, kind, *_module("gpu_calls", "10", "3", "9")], 40.0)
    if profiler := tool("ncu"):
        # the clocks stay as they are: others may use the GPU, and at other clocks durations are not those of use
        command = [profiler, "--csv", "--clock-control", "none", "--kernel-name", KERNELS, "--metrics", METRICS]
        yield Step("ncu", [*command, *_module("gpu_calls", "48", "1", "64")], 60.0, right=False)
    out = str(folder / "attribution.json")
    yield Step("attribution", _module("attribution.speed", "--device", "cuda", "--repeats", "3", "--out", out), 60.0)
    yield from _groups(stage, folder)


def run_steps(stage: str, folder: Path, ends: float) -> tuple[list[str], bool]:
    """Runs a stage until `ends` of `time.monotonic`. Returns notes, and whether all that ended was right."""
    notes, right = [], True
    if stage == "first":
        present = {"pytest": importlib.util.find_spec("pytest") is not None}
    else:
        present = {name: tool(name) is not None for name in ("compute-sanitizer", "ncu")}
    notes += [f"{name}: not installed" for name, found in present.items() if not found]
    for number, step in enumerate(steps(stage, folder)):
        outcome = execute(step, min(step.seconds, ends - time.monotonic()))
        name = re.sub(r"[^a-z0-9]+", "-", step.name.lower())
        (folder / f"{stage}-{number:02}-{name}.txt").write_text(outcome.output, "utf-8")
        errors = sanitizer_errors(outcome.output)
        found = [outcome.note] if errors is None else [f"compute-sanitizer {step.name}: {errors} errors"]
        notes += (ncu_summary(outcome.output) if step.name == "ncu" else []) or found
        print("\n".join(found), flush=True)
        if step.right and outcome.code not in (0, None):
            right = False
            print("\n".join(outcome.output.splitlines()[-30:]), flush=True)
    return notes, right


def merged(stage: str, folder: Path, notes: list[str]) -> Results | None:
    """The results of all groups of a stage that have any."""
    from dcam_fast.benchmarks.results import Results

    files = [group_file(folder, stage, index) for index in range(len(GROUPS[stage]))]
    found = [Results.from_json(file.read_text("utf-8")) for file in files if file.exists()]
    if not found:
        return None
    entries = [entry for results in found for entry in results.entries]
    return replace(found[0], entries=entries, notes=[*notes, *(note for results in found for note in results.notes)])


def main(arguments: list[str] | None = None) -> int:
    """See the module's docstring."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--stage", choices=tuple(STAGE_S), default="first")
    stage: str = parser.parse_args(arguments).stage
    import torch

    if not torch.cuda.is_available():
        print("gpu: torch finds no GPU, nothing was run")
        return NO_GPU
    major, minor = torch.cuda.get_device_capability()
    os.environ.setdefault("DCAM_ARCHS", f"{major}{minor}" + ("a" if major >= 9 else ""))
    folder = Path(os.environ.get("OUT") or ROOT / "build" / "gpu").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(len(GROUPS[stage])):
        group_file(folder, stage, index).unlink(missing_ok=True)
    notes, right = run_steps(stage, folder, started + STAGE_S[stage] - FINISH_S)
    (folder / f"{stage}-notes.txt").write_text("\n".join(notes) + "\n", "utf-8")
    sys.path.insert(0, str(ROOT))
    from dcam_fast.benchmarks.files import write

    results = merged(stage, folder, notes)
    if results is None:
        print("gpu: nothing was timed")
        return 1
    device = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower())
    for path in write(results, ROOT / "benchmarks" / "results", f"{date.today()}-{device}-{stage}"):
        print(path.relative_to(ROOT))
        if os.environ.get("OUT"):
            shutil.copy(path, folder)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
