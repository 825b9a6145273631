"""Tables of `dcam-fast evaluate`, `dcam-fast reproduce` and the search, for `report`."""

from __future__ import annotations

from typing import Any

from dcam_fast.evaluation.aggregate import Estimate
from dcam_fast.evaluation.runner import TRUE_MASK
from dcam_fast.evaluation.studies.reproduction import STUDIES, Reproduction, to_markdown
from dcam_fast.evaluation.studies.search import describe
from dcam_fast.output.tables import markdown_table

# metric, heading, whether higher is better
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
    """One table with the main columns."""
    return f"{_sentence(name, data)}\n\n{_table(data, SHORT)}"


def whole(name: str, data: dict[str, Any]) -> str:
    """Two tables: localization, and how the words depend on the cells."""
    return f"{_sentence(name, data)}\n\n{_table(data, PLACE)}\n\n{_table(data, DEPENDENCE)}"


def randomization(name: str, data: dict[str, Any]) -> str:
    """Correlation with the maps of increasingly randomized models."""
    curves: dict[str, list[float]] = data["randomization"]
    depth = len(next(iter(curves.values())))
    headers = ["method", *(f"{count} layer{'s' * (count > 1)}" for count in range(1, depth + 1))]
    rows = [[method, *(f"{value:.2f}" for value in curve)] for method, curve in curves.items()]
    about = f"{data['randomized']} scenes; from `benchmarks/results/{name}`."
    return "\n".join([about, "", markdown_table(headers, rows)])


def study(name: str, data: dict[str, Any]) -> str:
    """A table of the paper, with the published figures."""
    table = {
        row: {metric: Estimate(**estimate) for metric, estimate in cells.items()}
        for row, cells in data["table"].items()
    }
    result = Reproduction(data["samples"], data["words"], table)
    text = to_markdown(STUDIES[data["study"]], result, data["model"], data["data"])
    return f"{text.removeprefix('#')}\nFrom `benchmarks/results/{name}`."  # a level higher than in a report


def wrong_words(name: str, data: dict[str, Any]) -> str:
    """How well each signal finds wrong words, and the signals of the combinations."""
    groups = list(next(iter(data["table"].values())))
    best = {group: max(row[group]["value"] for row in data["table"].values()) for group in groups}
    rows = [
        [signal.replace("_", " "), *(_cell(row[group], row[group]["value"] == best[group], 3) for group in groups)]
        for signal, row in data["table"].items()
    ]
    head = (
        f"{data['wrong']} wrong words among {data['words']} of {data['scenes']} captions, one for each held-out scene "
        f"(seed {data['seed']}), {data['attention']} attention; from `benchmarks/results/{name}`."
    )
    chosen = []
    for title, weights in data["combinations"].items():
        signals = ", ".join(f"{signal.replace('_', ' ')} ({weight:+.1f})" for signal, weight in weights.items())
        chosen.append(f"The {title} has {signals}.")
    titles = [group if group == "all" else f"wrong {group}" for group in groups]
    return "\n".join([head, "", markdown_table(["signal", *titles], rows), "", " ".join(chosen)])


def search(name: str, data: dict[str, Any]) -> str:
    """The best entries of the four rounds of the search, and the rank of the published method in the first."""
    lines = [f"{data['scenes']} selection scenes; from `benchmarks/results/{name}`.", ""]
    published = ("contrast_sum", "final", "pooled")
    ranked = list(enumerate(data["raw"], 1))
    first = next(row for row in ranked if tuple(row[1][k] for k in ("objective", "state", "aggregation")) == published)
    rows = [
        [str(rank), *(entry[key] for key in ("objective", "state", "aggregation")),
         ", ".join(map(str, entry["layers"])), *_figures(entry, "pointing", "obj_iou", "f3")]
        for rank, entry in [*ranked[:8], first]
    ]  # fmt: skip
    headers = ["rank", "objective", "state", "aggregation", "layers", "pointing", "obj_iou", "F3"]
    lines.append(markdown_table(headers, rows, "rllllrrr"))
    lines += ["", f"(of {len(ranked)}; the last row is the best entry of the published method)", ""]
    rows = [
        [str(rank), describe(entry["profile"]), *_figures(entry, "pointing", "obj_iou", "concentration", "f3")]
        for rank, entry in enumerate(data["profiles"][:8], 1)
    ]
    lines.append(markdown_table(["rank", "refinement", "pointing", "obj_iou", "concentration", "F3"], rows, "rlrrrr"))
    lines += ["", f"(of {len(data['profiles'])})", ""]
    measured = ("pointing", "obj_iou", "f3", "deletion_4", "inter_word_correlation")
    headers = ["pointing", "obj_iou", "F3", "deletion, 4 cells", "inter_word_correlation"]
    finalists = [[describe(entry["profile"]), *_figures(entry, *measured)] for entry in data["finalists"]]
    ideas = [[entry["idea"], *_figures(entry, *measured)] for entry in data["ideas"]]
    lines += [markdown_table(["finalist", *headers], finalists), "", markdown_table(["idea", *headers], ideas)]
    return "\n".join(lines)


def _figures(entry: dict[str, float], *names: str) -> list[str]:
    return [f"{entry[name]:.3f}" for name in names]


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
    rows = [
        [method]
        + [_cell(row[metric], method != TRUE_MASK and row[metric]["value"] == best[metric]) for metric, *_ in columns]
        for method, row in data["table"].items()
    ]
    headers = ["method", *(f"{title} {'↑' if more else '↓'}" for _, title, more in columns)]
    return markdown_table(headers, rows)


def _cell(estimate: dict[str, float], best: bool, digits: int | None = None) -> str:
    if digits is None:
        digits = 1 if abs(estimate["value"]) >= 10 else 2
    value, low, high = (f"{estimate[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{f'**{value}**' if best else value} ({low} to {high})"
