"""The tables of the attribution pass, for `report`."""

from __future__ import annotations

from typing import Any


def attribution(name: str, data: dict[str, Any]) -> str:
    """One table a model: the published flow, and ours by topology and answer state."""
    machine = data["machine"]
    lines = [
        f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"load {machine['load_before']:.1f} before; from `benchmarks/results/{name}`."
    ]
    for result in data["results"]:
        rows = result["rows"]
        published = rows["published"]
        lines += [
            "",
            f"**{result['model']}, {result['dtype']}, {result['tokens']:,} tokens, block {result['explained']} of "
            f"{result['blocks']} explained, {result['words']} words**",
            "",
            "| | seconds | times as fast | MiB above inference | share |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        for label, row in rows.items():
            if label.startswith("inference"):
                continue
            above = row["above_inference_bytes"]
            lines.append(
                f"| {label} | {row['seconds']:.3f} | {published['seconds'] / row['seconds']:.1f} "
                f"| {above / 2**20:.1f} | 1 / {published['above_inference_bytes'] / max(above, 1):.1f} |"
            )
    return "\n".join(lines)


def approximations(name: str, data: dict[str, Any]) -> str:
    """Each approximate mode beside the exact one."""
    lines = [f"{data['scenes']} selection scenes; from `benchmarks/results/{name}`."]
    for kind, table in data["tables"].items():
        exact = table["exact"]["seconds"]
        lines += [
            "",
            f"| {kind} | pointing | obj_iou | F3 | cosine with exact | times as fast |",
            "| --- |" + " ---: |" * 5,
        ]
        for mode, row in table.items():
            figures = " | ".join(f"{row[key]:.3f}" for key in ("pointing", "obj_iou", "f3", "cosine"))
            lines.append(f"| {mode} | {figures} | {exact / row['seconds']:.1f} |")
    return "\n".join(lines)
