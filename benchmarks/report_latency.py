"""The tables of latency next to busy processes and of the page's frames, for `report`."""

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


def frames(name: str, data: dict[str, Any]) -> str:
    """One row per action of the page and limit of the browser."""
    machine = data["machine"]
    about = (
        f"{data['browser']} without a window and without a GPU, {machine['device']}, {machine['cores']} cores, load "
        f"{machine['load']} at the start; from `benchmarks/results/{name}`."
    )
    rows = [
        [
            row["action"],
            f"{row['limit']} a second" if row["limit"] else "none",
            f"{row['per_second']:.0f}",
            *(readable(row[key]) for key in ("median", "p95", "cpu")),
        ]
        for row in data["rows"]
    ]
    headers = ["each frame", "limit", "frames a second", "median", "p95", "main thread"]
    return "\n".join([about, "", markdown_table(headers, rows)])
