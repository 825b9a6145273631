"""Tables of many requests and of budgets, for `report`."""

from __future__ import annotations

import statistics
from typing import Any

from dcam_fast.benchmarks.tables import readable
from dcam_fast.output.tables import markdown_table


def many(name: str, data: dict[str, Any]) -> str:
    """One row per side: seconds of a round, requests a second, resident memory."""
    machine, rows, count = data["machine"], data["rows"], data["requests"]
    medians = {row["call"]: statistics.median(row["seconds"]) for row in rows}
    loop = medians["loop of explain"]
    about = (
        f"{count} captions of different scenes with the embedded model, median of {len(rows[0]['seconds'])} rounds in "
        f"turns; {machine['device']}, {machine['cores']} cores, torch {machine['torch']}, commit {machine['commit']}, "
        f"load {machine['load']} at the start; from `benchmarks/results/{name}`."
    )
    table = [
        [call, readable(seconds), f"{count / seconds:.2f}", f"{loop / seconds:.2f}"]
        for call, seconds in medians.items()
    ]
    memory = [" / ".join(f"{size / 2**20:.0f}" for size in sizes) for sizes in data["memory"]]
    resident = (
        "Resident memory of `explain_many` in MiB after a quarter, half and all of the requests, by round: "
        + ", ".join(memory)
        + "."
    )
    headers = ["", "time", "requests a second", "times as fast"]
    return "\n".join([about, "", markdown_table(headers, table), "", resident])


def budgets(name: str, data: dict[str, Any]) -> str:
    """One row per number of busy processes and budget."""
    machine = data["machine"]
    about = (
        f"{machine['device']}, {machine['cores']} cores, torch {machine['torch']}, commit {machine['commit']}, load "
        f"{machine['load']} at the start; {data['rows'][0]['calls']} calls a row; from `benchmarks/results/{name}`."
    )
    table = []
    for row in data["rows"]:
        shares = [f"{row[name] / row['calls']:.1%}" for name in ("within", "late", "refused")]
        chosen = ", ".join(f"{level} ({count})" for level, count in row["chosen"].items())
        p95 = "" if row["p95_ms"] is None else f"{row['p95_ms']:.0f} ms"
        table.append([str(row["busy"]), f"{row['budget_ms']:.0f} ms", *shares, p95, chosen])
    headers = ["busy processes", "budget", "in time", "late", "refused", "p95", "chosen (calls)"]
    return "\n".join([about, "", markdown_table(headers, table)])
