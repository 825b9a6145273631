"""Tables of the attribution pass, for `report`."""

from __future__ import annotations

from typing import Any

from dcam_fast.output.tables import markdown_table


def attribution(name: str, data: dict[str, Any]) -> str:
    """One table per model: the published method, then this package by topology and answer state."""
    machine = data["machine"]
    lines = [
        f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"load {machine['load']:.1f} at the start; from `benchmarks/results/{name}`."
    ]
    for result in data["results"]:
        rows = result["rows"]
        published = rows["published"]
        lines += [
            "",
            f"**{result['model']}, {result['dtype']}, {result['tokens']:,} tokens, target layer "
            f"{result['target_layer']} of {result['num_layers']}, {result['words']} words**",
            "",
        ]
        cells = []
        for label, row in rows.items():
            if not label.startswith("inference"):
                speedup = published["seconds"] / row["seconds"]
                above = row["above_inference_bytes"]
                share = published["above_inference_bytes"] / max(above, 1)
                cells.append(
                    [label, f"{row['seconds']:.3f}", f"{speedup:.1f}", f"{above / 2**20:.1f}", f"1 / {share:.1f}"]
                )
        lines.append(markdown_table(["", "seconds", "times as fast", "MiB above inference", "share"], cells))
    return "\n".join(lines)


def approximations(name: str, data: dict[str, Any]) -> str:
    """Each approximate mode, compared with the exact one."""
    lines = [f"{data['scenes']} selection scenes; from `benchmarks/results/{name}`."]
    for kind, table in data["tables"].items():
        exact = table["exact"]["seconds"]
        headers = [kind, "pointing", "obj_iou", "F3", "cosine with exact", "times as fast"]
        metrics = ("pointing", "obj_iou", "f3", "cosine")
        rows = [
            [mode, *(f"{row[key]:.3f}" for key in metrics), f"{exact / row['seconds']:.1f}"]
            for mode, row in table.items()
        ]
        lines += ["", markdown_table(headers, rows)]
    return "\n".join(lines)
