"""The result file. JSON, schema 1:

- `schema`: 1
- `created`, `machine`: when and where it was measured; every other result file begins with this `header` too
- `limits`: `bytes_per_s` of a copy and `operations_per_s` of a float32 matrix product, both measured in the same run
- `entries`: one per case, implementation and cache:
  `scope`, `op`, `variant`, `case` (its unique name), `targets`, `cells`, `implementation`, `device`, `cache` ("cold" or
  "warm"), `median`, `p10`, `p90` (seconds; null if nothing was timed), `samples`, `floor` (minimum seconds by the
  limits; null if the work is not counted), `reason` (why nothing was timed; null otherwise), `wrong` (whether it
  failed the correctness check). A custom implementation is named `module:function`.
- `notes`: what was cut or did not run, and summaries of tools
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

from dcam_fast.benchmarks.implementations import Origin
from dcam_fast.benchmarks.timing import Limits
from dcam_fast.environment import env
from dcam_fast.folders import write_json

SCHEMA = 1
ROOT = Path(__file__).resolve().parent.parent


def origin_of(implementation: str) -> Origin:
    """Where an implementation comes from, by its name.

    >>> [origin_of(name) for name in ("dcam_fast cpu", "my_kernels:pool", "numba")]
    ['dcam_fast', 'custom', 'baseline']
    """
    if implementation.startswith("dcam_fast "):
        return "dcam_fast"
    return "custom" if ":" in implementation else "baseline"


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
    wrong: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        """Identifies the same measurement in another file."""
        return self.case, self.implementation, self.cache

    @property
    def percentiles(self) -> tuple[float, float, float]:
        """(p10, median, p90) of a timed entry, seconds."""
        assert self.p10 is not None
        assert self.median is not None
        assert self.p90 is not None
        return self.p10, self.median, self.p90

    @property
    def share(self) -> float | None:
        """Share of the machine's limit; None if unknown. Over 1 if the data were in a cache, or the machine busy."""
        return self.floor / self.median if self.floor and self.median else None


@dataclass(frozen=True)
class Results:
    """A whole run; see the module's docstring."""

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
        """Reads the text of a file.

        Raises:
            ValueError: The file has another schema.
        """
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
    """Model name and frequency in MHz, as reported by Linux."""
    lines = (_read("/proc/cpuinfo") or "").splitlines()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
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
    """Hardware, versions, commit and load of the machine."""
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


def header(device: str) -> dict[str, Any]:
    """The first fields of every result file. Take it before measuring: it holds the load."""
    return {"created": now(), "machine": describe_machine(device)}


def write_result(path: Path, head: dict[str, Any], **content: Any) -> None:
    """Writes a result file: the header, then the content. Creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, head | content)
