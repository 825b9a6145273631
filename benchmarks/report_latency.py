"""The table of latency next to busy processes, for `report`."""

from __future__ import annotations

from typing import Any

from dcam_fast.benchmarks.tables import readable
from dcam_fast.output.tables import markdown_table


def latency(name: str, data: dict[str, Any]) -> str:
    """One row per call, one column per number of busy processes."""
    machine, rows = data["machine"], data["rows"]
    busy = sorted({row["busy"] for row in rows})
    about = (
        f"Median / p95 / p99 next to busy processes. {machine['device']}, {machine['cores']} cores, torch "
        f"{machine['torch']}, commit {machine['commit']}, load {machine['load']} at the start; from "
        f"`benchmarks/results/{name}`."
    )
    table = []
    for call in dict.fromkeys(row["call"] for row in rows):
        cells = {row["busy"]: row for row in rows if row["call"] == call}
        figures = [" / ".join(readable(cells[count][key]) for key in ("median", "p95", "p99")) for count in busy]
        table.append([call, *figures])
    return "\n".join([about, "", markdown_table(["busy processes", *map(str, busy)], table)])
