"""The table of the service under load, for `report`."""

from __future__ import annotations

from typing import Any

from dcam_fast.benchmarks.tables import readable
from dcam_fast.output.tables import markdown_table

COLUMNS = ["clients", "answers/s", "p50", "p95", "p99", "queue, mean", "refused", "failed", "/health p99", "resident"]


def service(name: str, data: dict[str, Any]) -> str:
    """One row per number of clients."""
    machine = data["machine"]
    about = (
        f"Explanations of the embedded model; {data['worker']:.2f} a second in a loop without the service. "
        f"{machine['device']}, {machine['cores']} cores, torch {machine['torch']}, commit {machine['commit']}, load "
        f"{machine['load']} at the start; from `benchmarks/results/{name}`."
    )
    rows = [
        [
            str(row["clients"]),
            f"{row['throughput']:.2f}",
            *(readable(row[key]) for key in ("p50", "p95", "p99", "queue")),
            str(row["refused"]),
            str(row["failed"]),
            readable(row["health_p99"]),
            f"{row['resident'] / 1e6:.0f} MB",
        ]
        for row in data["rows"]
    ]
    return "\n".join([about, "", markdown_table(COLUMNS, rows)])
