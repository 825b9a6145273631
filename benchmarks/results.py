"""The result file. JSON, schema 1:

- `schema`: 1
- `created`: ISO date and time; `machine`: strings and numbers that describe where it ran (`describe_machine`)
- `limits`: `bytes_per_s` of a copy and `operations_per_s` of a float32 matrix product, both measured in the same run
- `entries`: one per case, implementation and cache:
  `scope`, `op`, `variant`, `case` (its unique name), `targets`, `cells`, `implementation`, `device`, `cache` ("cold" or
  "warm"), `median`, `p10`, `p90` (seconds; null where nothing was timed), `samples`, `floor` (seconds that the limits
  allow at best; null where the work is not counted), `reason` (why nothing was timed; null otherwise)
- `notes`: what was cut or did not run, and tools' summaries
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from dcam_fast.benchmarks.timing import Limits
from dcam_fast.environment import env

SCHEMA = 1
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Entry:
    """One row of the file; see the module's docstring."""

    scope: str
    op: str
    variant: str
    case: str
    targets: int
    cells: int
    implementation: str
    device: str
    cache: str
    median: float | None = None
    p10: float | None = None
    p90: float | None = None
    samples: int = 0
    floor: float | None = None
    reason: str | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What is compared with the same of another file."""
        return self.case, self.implementation, self.cache

    @property
    def share(self) -> float | None:
        """Of the limit that was reached: 1 is the best the machine can do."""
        return self.floor / self.median if self.floor and self.median else None


@dataclass(frozen=True)
class Results:
    """A whole run."""

    created: str
    machine: dict[str, Any]
    limits: Limits
    entries: list[Entry]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Results:
        """Raises ValueError for a file of another schema."""
        data = json.loads(text)
        if data.get("schema") != SCHEMA:
            raise ValueError(f"bench: the result file must have schema {SCHEMA}, got {data.get('schema')}")
        return cls(
            data["created"],
            data["machine"],
            Limits(**data["limits"]),
            [Entry(**entry) for entry in data["entries"]],
            data["notes"],
        )


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _cpu() -> tuple[str, str]:
    """Model and clock, as the kernel tells them."""
    lines = (_read("/proc/cpuinfo") or "").splitlines()
    facts = dict(tuple(map(str.strip, line.split(":", 1))) for line in lines if ":" in line)
    return facts.get("model name", platform.processor() or platform.machine()), facts.get("cpu MHz", "unknown")


def _commit() -> str:
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


def describe_machine(device: str) -> dict[str, Any]:
    """What a reader must know to judge the figures."""
    model, mhz = _cpu()
    versions = env().versions
    facts = {
        "device": model if device == "cpu" else torch.cuda.get_device_name(device),
        "cpu": model,
        "mhz": mhz,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "unknown",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "python": versions["python"],
        "torch": versions["torch"],
        "triton": versions["triton"],
        "numpy": versions["numpy"],
        "commit": _commit(),
        "cpu_kernels": env().cpu_kernels,
    }
    if device != "cpu":
        try:
            facts["gpu_mhz"] = torch.cuda.clock_rate(device)
        except (RuntimeError, ModuleNotFoundError, AttributeError):  # needs NVML's Python package
            facts["gpu_mhz"] = "unknown"
    return facts


def now() -> str:
    """ISO date and time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
