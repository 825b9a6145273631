"""The parts of the documents that say which map is right, from the result files of ``dcam-fast evaluate``, ``dcam-fast
reproduce`` and the search."""

from __future__ import annotations

from typing import Any

from dcam_fast.evaluation.aggregate import Estimate
from dcam_fast.evaluation.runner import TRUE_MASK
from dcam_fast.evaluation.studies.reproduction import STUDIES, Reproduction, to_markdown
from dcam_fast.evaluation.studies.search import describe

# metric, heading, whether more is better
Columns = tuple[tuple[str, str, bool], ...]
PLACE: Columns = (
    ("pointing", "pointing", True),
    ("wrong", "on another", False),
    ("obj_iou", "obj_iou", True),
    ("concentration", "concentration", True),
    ("contrast", "contrast", True),
    ("f3", "F3", True),
)
DEPENDENCE: Columns = (
    ("deletion_1.56%", "deletion, 4 cells", False),
    ("deletion_12.5%", "deletion, 32 cells", False),
    ("insertion_1.56%", "insertion, 4 cells", True),
    ("insertion_12.5%", "insertion, 32 cells", True),
    ("inter_word_correlation", "inter_word_correlation", False),
)
SHORT: Columns = (PLACE[0], PLACE[2], PLACE[5], DEPENDENCE[0], DEPENDENCE[3], DEPENDENCE[4])


def summary(name: str, data: dict[str, Any]) -> str:
    """The columns that matter most."""
    return f"{_sentence(name, data)}\n\n{_table(data, SHORT)}"


def whole(name: str, data: dict[str, Any]) -> str:
    """Two tables: where the maps sit, and whether the words depend on it."""
    return f"{_sentence(name, data)}\n\n{_table(data, PLACE)}\n\n{_table(data, DEPENDENCE)}"


def randomization(name: str, data: dict[str, Any]) -> str:
    """Correlation with the maps of ever more randomized models."""
    curves: dict[str, list[float]] = data["randomization"]
    depth = len(next(iter(curves.values())))
    lines = [f"{data['randomized']} scenes; from `benchmarks/results/{name}`.", ""]
    lines += ["| method | " + " | ".join(f"{count} block{'s' * (count > 1)}" for count in range(1, depth + 1)) + " |"]
    lines += ["| --- |" + " ---: |" * depth]
    lines += [
        f"| {method} | " + " | ".join(f"{value:.2f}" for value in curve) + " |" for method, curve in curves.items()
    ]
    return "\n".join(lines)


def study(name: str, data: dict[str, Any]) -> str:
    """A table of the paper, ours beside the published figures."""
    table = {
        row: {metric: Estimate(**estimate) for metric, estimate in cells.items()}
        for row, cells in data["table"].items()
    }
    result = Reproduction(data["samples"], data["words"], table)
    text = to_markdown(STUDIES[data["study"]], result, data["model"], data["data"])
    return f"{text}\nFrom `benchmarks/results/{name}`."


def search(name: str, data: dict[str, Any]) -> str:
    """The best entries of the four rounds of the search, and the published form's place in the first."""
    lines = [f"{data['scenes']} selection scenes; from `benchmarks/results/{name}`.", ""]
    lines += [
        "| rank | objective | state | aggregation | blocks | pointing | obj_iou | F3 |",
        "| ---: |" + " --- |" * 4 + " ---: |" * 3,
    ]
    published = ("contrast_sum", "final", "pooled")
    ranked = list(enumerate(data["raw"], 1))
    first = next(row for row in ranked if tuple(row[1][k] for k in ("objective", "state", "aggregation")) == published)
    for rank, entry in [*ranked[:8], first]:
        names = " | ".join(entry[key] for key in ("objective", "state", "aggregation"))
        blocks = ", ".join(map(str, entry["blocks"]))
        lines.append(f"| {rank} | {names} | {blocks} | {_figures(entry, 'pointing', 'obj_iou', 'f3')} |")
    lines += ["", f"(of {len(ranked)}; the last row is the best of the published form)", ""]
    lines += ["| rank | refinement | pointing | obj_iou | concentration | F3 |", "| ---: | --- |" + " ---: |" * 4]
    for rank, entry in enumerate(data["profiles"][:8], 1):
        figures = _figures(entry, "pointing", "obj_iou", "concentration", "f3")
        lines.append(f"| {rank} | {describe(entry['profile'])} | {figures} |")
    lines += ["", f"(of {len(data['profiles'])})", ""]
    measured = ("pointing", "obj_iou", "f3", "deletion_4", "inter_word_correlation")
    heads = "pointing | obj_iou | F3 | deletion, 4 cells | inter_word_correlation |"
    lines += [f"| finalist | {heads}", "| --- |" + " ---: |" * len(measured)]
    lines += [f"| {describe(entry['profile'])} | {_figures(entry, *measured)} |" for entry in data["finalists"]]
    lines += ["", f"| idea | {heads}", "| --- |" + " ---: |" * len(measured)]
    lines += [f"| {entry['idea']} | {_figures(entry, *measured)} |" for entry in data["ideas"]]
    return "\n".join(lines)


def _figures(entry: dict[str, float], *names: str) -> str:
    return " | ".join(f"{entry[name]:.3f}" for name in names)


def _sentence(name: str, data: dict[str, Any]) -> str:
    profile = f", all maps refined by the profile `{data['profile']}`" if data["profile"] else ""
    scenes = data["data"].replace("-", " ")
    return (
        f"{data['words']} words of {data['named']} right captions of {data['samples']} held-out {scenes} (seed "
        f"{data['seed']}){profile}; {data['seconds'] / 60:.0f} minutes of computing; from "
        f"`benchmarks/results/{name}`."
    )


def _table(data: dict[str, Any], columns: Columns) -> str:
    best = {}
    for metric, _, more in columns:
        values = [row[metric]["value"] for method, row in data["table"].items() if method != TRUE_MASK]
        best[metric] = (max if more else min)(values)
    lines = ["| method | " + " | ".join(f"{title} {'↑' if more else '↓'}" for _, title, more in columns) + " |"]
    lines += ["| --- |" + " ---: |" * len(columns)]
    for method, row in data["table"].items():
        cells = [
            _cell(row[metric], method != TRUE_MASK and row[metric]["value"] == best[metric]) for metric, *_ in columns
        ]
        lines.append(f"| {method.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(estimate: dict[str, float], best: bool) -> str:
    digits = 1 if abs(estimate["value"]) >= 10 else 2
    value, low, high = (f"{estimate[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{f'**{value}**' if best else value} ({low} to {high})"
