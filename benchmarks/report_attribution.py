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


CONTRAST = (
    ("pointing", "pointing ↑"),
    ("wrong", "on the other ↓"),
    ("obj_iou", "obj_iou ↑"),
    ("concentration", "concentration ↑"),
    ("preference", "preference ↓"),
    ("cells", "cells"),
)


def contrast(name: str, data: dict[str, Any]) -> str:
    """Maps of colors and of contrasts of colors, for each kind of scenes."""
    lines = [f"Scenes of two objects (seed {data['seed']}); from `benchmarks/results/{name}`."]
    for kind, table in data["tables"].items():
        rows = [
            [f"`{row}`", *(_estimate(estimates[metric]) for metric, _ in CONTRAST)] for row, estimates in table.items()
        ]
        right, words = data["right"][kind], table["color"]["pointing"]["count"]
        about = (
            f"**{kind[0].upper()}{kind[1:]}**: {words} words of {right} right captions of {data['scenes']} scenes; "
            f"preference with all cells: {_estimate(data['preference'][kind])}"
        )
        lines += ["", about, "", markdown_table(["map of", *(heading for _, heading in CONTRAST)], rows)]
    return "\n".join(lines)


def _estimate(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"
