"""Reports of a run, in Markdown and HTML: tables, curves, and pictures of the best and worst cases."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dcam_fast import ops
from dcam_fast.evaluation.aggregate import LEVEL, Estimate
from dcam_fast.evaluation.cases import prepare
from dcam_fast.evaluation.datasets import Dataset
from dcam_fast.evaluation.records import Record
from dcam_fast.evaluation.registry import METRICS, Metric, Table
from dcam_fast.evaluation.runner import TRUE_MASK, EvaluationConfig, Summary, all_maps
from dcam_fast.folders import replacing, write_text
from dcam_fast.models.adapter import Adapter
from dcam_fast.output.html import data_url, render
from dcam_fast.output.pictures import fit, resized
from dcam_fast.output.tables import markdown_table

MARKDOWN: Final = "report.md"
PAGE: Final = "report.html"
PICTURES: Final = "pictures"
PANEL: Final = 160  # pixels, the longer side of a picture in a case
OUTLINE: Final = (255, 255, 255)

TITLES: Final[dict[Table, str]] = {
    "localization": "Localization of the named region",
    "perturbation": "Perturbation, and correlation between words",
    "annotated": "Localization of any annotated region, as in the paper",
}
_MARKS: Final = re.compile(r"[\\`*_\[\]|]")  # that have a meaning in a line of Markdown
CASES: Final = 3  # best and worst cases each


@dataclass(frozen=True, eq=False)
class CasePictures:
    """One word of one sample in pictures: the image with the outline of the mask, then the overlay of each method."""

    title: str
    name: str
    headings: tuple[str, ...]
    pictures: tuple[NDArray[np.uint8], ...]


def columns_of(summary: Summary) -> dict[str, list[Metric]]:
    """The columns of each table of the report, by title: those metrics that the run has."""
    measured = next(iter(summary.table.values()), {})
    points = [
        Metric(name, "perturbation", kind == "insertion", f"{kind} at {name.removeprefix(f'{kind}_')}")
        for kind in ("deletion", "insertion")
        for name in measured
        if name.startswith(f"{kind}_") and name.endswith("%")
    ]
    columns = [metric for metric in (*METRICS.values(), *points) if metric.name in measured]
    return {title: [metric for metric in columns if metric.table == table] for table, title in TITLES.items()}


def best_methods(summary: Summary, metric: Metric) -> set[str]:
    """The methods with the best value of a metric. The true mask is not a method."""
    if metric.higher_is_better is None:
        return set()
    values = {
        name: row[metric.name].value for name, row in summary.table.items() if metric.name in row and name != TRUE_MASK
    }
    best = (max if metric.higher_is_better else min)(values.values(), default=None)
    return {name for name, value in values.items() if value == best}


def _cell(estimate: Estimate | None) -> tuple[str, str]:
    """A value and its interval."""
    if estimate is None:
        return "", ""
    digits = 1 if abs(estimate.high) >= 10 else 3
    return f"{estimate.value:.{digits}f}", f"{estimate.low:.{digits}f} to {estimate.high:.{digits}f}"


def _sentence(summary: Summary, config: EvaluationConfig) -> str:
    return (
        f"{config.model} answered {summary.samples} samples of {config.data}. {summary.words} words of {summary.named} "
        f"answers name a region. {summary.missing} regions are not measured, because no word names them."
        + ("" if config.profile is None else f" All maps are refined by the profile {config.profile}.")
    )


_NOTE = (
    f"Means over words (contrast: the median), with {LEVEL:.0%} bootstrap intervals over samples. The best method of a "
    "column is in bold. The true mask is not a method but an upper bound."
)


def _plain(text: str) -> str:
    """A text as one line of Markdown, with all special characters escaped."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return _MARKS.sub(r"\\\g<0>", escape(" ".join(line.split()), quote=False))


def to_markdown(summary: Summary, config: EvaluationConfig, shown: Sequence[CasePictures]) -> str:
    """The report as Markdown. It refers to the pictures of `write_report`."""
    title = _plain(f"Evaluation of {config.model} on {config.data}")
    lines = [f"# {title}", "", _plain(_sentence(summary, config)), "", _NOTE]
    for title, columns in columns_of(summary).items():
        best = {metric.name: best_methods(summary, metric) for metric in columns}
        rows = []
        for name, row in summary.table.items():
            cells = []
            for metric in columns:
                value, interval = _cell(row.get(metric.name))
                marked = f"**{value}**" if name in best[metric.name] else value
                cells.append(f"{marked} ({interval})" if value else "")
            rows.append([name, *cells])
        lines += ["", f"## {title}", "", markdown_table(["method", *(metric.heading for metric in columns)], rows)]
    if summary.words:
        lines += ["", f"![Deletion and insertion curves]({PICTURES}/curves.png)"]
    if summary.randomization:
        depth = len(next(iter(summary.randomization.values())))
        headers = ["method", *(f"{count} layer{'s' * (count > 1)}" for count in range(1, depth + 1))]
        rows = [[name, *(f"{value:.2f}" for value in curve)] for name, curve in summary.randomization.items()]
        lines += ["", "## Model randomization", "", _RANDOMIZATION, "", markdown_table(headers, rows)]
    if shown:
        lines += ["", "## Best and worst cases"]
        for case in shown:
            lines += ["", _plain(case.title), "", f"From left to right: {', '.join(case.headings)}.", ""]
            lines += [f"![{case.name}]({PICTURES}/{case.name}.png)"]
    return "\n".join(lines) + "\n"


_RANDOMIZATION = (
    "Correlation of the maps with those of the model whose last layers are re-initialized. "
    "A map that explains the model changes."
)


def to_html(
    summary: Summary, config: EvaluationConfig, shown: Sequence[CasePictures], curves: NDArray[np.uint8] | None
) -> str:
    """The report as one self-contained HTML page."""
    tables = []
    for title, columns in columns_of(summary).items():
        best = {metric.name: best_methods(summary, metric) for metric in columns}
        rows = {
            name: [(*_cell(row.get(metric.name)), name in best[metric.name]) for metric in columns]
            for name, row in summary.table.items()
        }
        headings = [metric.heading for metric in columns]
        tables.append({"title": title, "headings": headings, "rows": rows.items()})
    return render(
        "evaluation.html",
        title=f"{config.model} on {config.data}",
        sentence=_sentence(summary, config),
        note=_NOTE,
        tables=tables,
        curves=None if curves is None else data_url(curves),
        randomization=summary.randomization,
        randomization_note=_RANDOMIZATION,
        cases=[(case.title, list(zip(case.headings, map(data_url, case.pictures), strict=True))) for case in shown],
    )


def draw_curves(summary: Summary) -> NDArray[np.uint8]:
    """The deletion and insertion curves of all methods as a picture, uint8 `[H, W, 3]`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
    for axes, kind, better in zip(figure.subplots(1, 2), ("deletion", "insertion"), ("lower", "higher"), strict=True):
        for name, curves in summary.curves.items():
            style: dict[str, Any] = {"color": "black", "linestyle": "--"} if name == TRUE_MASK else {"marker": "."}
            axes.plot(summary.shares, curves[kind], label=name, **style)
        axes.set_xscale("symlog", linthresh=summary.shares[1])
        axes.set_xticks(summary.shares, [f"{100 * share:.3g}%" for share in summary.shares])
        axes.minorticks_off()
        axes.set_ylim(0, 1)
        axes.set_title(f"{kind} ({better} is better)")
        axes.set_xlabel("share of the cells")
        axes.set_ylabel("probability of the word")
    axes.legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.array(Image.open(buffer).convert("RGB"))


def extremes(records: Sequence[Record], method: str) -> list[tuple[str, int, int, float]]:
    """The words with the highest and the lowest F3 of a method, at most `CASES` each and one for each sample.

    Returns:
        (`"best"` or `"worst"`, index of the sample, index of the word, F3) of each.
    """
    ranked = sorted(
        (
            (value, record["index"], word)
            for record in records
            if record["words"]
            for word, value in enumerate(record["methods"][method]["metrics"]["f3"])
        ),
        key=lambda entry: (-entry[0], entry[1:]),
    )
    chosen: list[tuple[str, int, int, float]] = []
    for label, order in (("best", ranked), ("worst", ranked[::-1])):
        taken = {index for _, index, _, _ in chosen}
        picked = 0
        for value, index, word in order:
            if index not in taken and picked < CASES:
                taken.add(index)
                picked += 1
                chosen.append((label, index, word, value))
    return chosen


def show_cases(
    adapter: Adapter[Any], dataset: Dataset, config: EvaluationConfig, records: Sequence[Record]
) -> list[CasePictures]:
    """The best and worst cases of the first method, explained again for their pictures.

    Raises:
        RuntimeError: if the model answers a sample otherwise than in the run.
    """
    shown, counts = [], {"best": 0, "worst": 0}
    for label, index, word, value in extremes(records, config.methods[0]):
        answer, case = prepare(adapter, dataset[index], config.generation)
        if case is None:
            raise RuntimeError(f"show_cases: sample {index} must have the same answer as in the run, got {answer!r}")
        counts[label] += 1
        height, width = case.masks.shape[1:]
        wide, high = fit(width, height, PANEL, PANEL)
        image = resized(case.sample.image, wide, high)
        mask = resized(case.masks[word].cpu().numpy().astype(np.uint8)[..., None].repeat(3, 2) * 255, wide, high)
        boxes = case.inputs.views[0].boxes
        boxes = boxes * boxes.new_tensor([wide / width, high / height, wide / width, high / height])
        pixels = torch.tensor(image, device=boxes.device)
        maps = all_maps(adapter, case, config)
        pictures = [
            ops.overlay(method_maps[word : word + 1], pixels, boxes)[0].cpu().numpy() for method_maps in maps.values()
        ]
        shown.append(
            CasePictures(
                title=f"{label.capitalize()} {counts[label]}: “{case.words[word].text}” in “{answer}” "
                f"({case.sample.id}), F3 of {config.methods[0]} {value:.2f}",
                name=f"{label}-{counts[label]}",
                headings=("mask", *maps),
                pictures=(_outlined(image, mask[..., 0] >= 128), *pictures),
            )
        )
    return shown


def _outlined(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The image, darkened outside the mask, with the outline of the mask."""
    padded = np.pad(mask, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    picture = np.where(mask[..., None], image, image // 2)
    return np.where((mask & ~inner)[..., None], np.array(OUTLINE, np.uint8), picture).astype(np.uint8)


def _strip(pictures: Sequence[NDArray[np.uint8]]) -> Image.Image:
    """Pictures of one height side by side, with white gaps."""
    gap = np.full((pictures[0].shape[0], 6, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)][:-1]
    return Image.fromarray(np.concatenate(parts, 1))


def write_report(
    adapter: Adapter[Any],
    dataset: Dataset,
    config: EvaluationConfig,
    records: Sequence[Record],
    summary: Summary,
    folder: Path,
) -> None:
    """Writes `MARKDOWN`, `PAGE` and `PICTURES` into the folder of a run.

    Args:
        adapter: the model of the run.
        dataset: the samples of the run.
        config: its settings.
        records: its records.
        summary: from `summarize`.
        folder: of the run.
    """
    shown = show_cases(adapter, dataset, config, records)
    curves = draw_curves(summary) if summary.words else None
    with replacing(folder, "evaluate") as draft:
        pictures = draft / PICTURES
        pictures.mkdir()
        if curves is not None:
            Image.fromarray(curves).save(pictures / "curves.png")
        for case in shown:
            _strip(case.pictures).save(pictures / f"{case.name}.png")
        write_text(draft / MARKDOWN, to_markdown(summary, config, shown))
        write_text(draft / PAGE, to_html(summary, config, shown, curves))
    former = {f"{label}-{number}" for label in ("best", "worst") for number in range(1, CASES + 1)}
    for name in former - {case.name for case in shown}:  # of an earlier report on more samples
        (folder / PICTURES / f"{name}.png").unlink(missing_ok=True)
