"""The table of latency beside busy processes, for `report`."""

from __future__ import annotations

from typing import Any

from dcam_fast.benchmarks.tables import readable


def latency(name: str, data: dict[str, Any]) -> str:
    """One row a call, one column a number of busy processes."""
    machine, rows = data["machine"], data["rows"]
    busy = sorted({row["busy"] for row in rows})
    lines = [
        f"Median / p95 / p99 beside busy processes. {machine['device']}, {machine['cores']} cores, torch "
        f"{machine['torch']}, commit {machine['commit']}, load {machine['load']} at the start; from "
        f"`benchmarks/results/{name}`.",
        "",
        f"| busy processes | {' | '.join(map(str, busy))} |",
        f"| --- |{' ---: |' * len(busy)}",
    ]
    for call in dict.fromkeys(row["call"] for row in rows):
        cells = {row["busy"]: row for row in rows if row["call"] == call}
        figures = [" / ".join(readable(cells[count][key]) for key in ("median", "p95", "p99")) for count in busy]
        lines.append(f"| {call} | {' | '.join(figures)} |")
    return "\n".join(lines)
