"""A run as a report: tables, curves, and the best and worst cases as pictures, in Markdown and as one HTML page."""

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
from dcam_fast.evaluation.runner import TRUE_MASK, Record, Settings, Summary, all_maps
from dcam_fast.folders import replacing, write_text
from dcam_fast.models.adapter import Adapter
from dcam_fast.output.html import data_url, render
from dcam_fast.output.pictures import fit, resized

MARKDOWN: Final = "report.md"
PAGE: Final = "report.html"
PICTURES: Final = "pictures"
PANEL: Final = 160  # pixels, the longer side of a picture in a case
OUTLINE: Final = (255, 255, 255)

# metric, heading, whether more is better (None: neither)
Column = tuple[str, str, bool | None]
FIT: Final[tuple[Column, ...]] = (
    ("pointing", "pointing", True),
    ("wrong", "on another object", False),
    ("obj_iou", "obj_iou", True),
    ("func_iou", "Func-IoU", None),
    ("precision", "precision", True),
    ("recall", "recall", True),
    ("contrast", "contrast (median)", True),
    ("concentration", "concentration", True),
    ("f3", "F3", True),
    ("f3_geometric", "F3 (geometric)", True),
)
ANYTHING: Final[tuple[Column, ...]] = (
    ("any_obj_iou", "obj_iou", True),
    ("any_contrast", "contrast (median)", True),
    ("any_concentration", "concentration", True),
    ("any_f3", "F3", True),
)
DEPENDENCE: Final[tuple[Column, ...]] = (
    ("deletion_area", "deletion, area", False),
    ("insertion_area", "insertion, area", True),
    ("inter_word_correlation", "inter_word_correlation", False),
)
_MARKS: Final = re.compile(r"[\\`*_\[\]|]")  # of Markdown, within a line
FIRST: Final = 3  # best and worst cases each


@dataclass(frozen=True, eq=False)
class Shown:
    """One word of one sample as pictures: the image with the outline of the mask, then each method's map over it."""

    title: str
    name: str
    headings: tuple[str, ...]
    pictures: tuple[NDArray[np.uint8], ...]


def tables_of(summary: Summary) -> dict[str, list[Column]]:
    """The tables of the report, each with the columns that the run has."""
    first = next(iter(summary.table.values()), {})
    points: list[Column] = [
        (name, f"{kind} at {name.removeprefix(f'{kind}_')}", kind == "insertion")
        for kind in ("deletion", "insertion")
        for name in first
        if name.startswith(f"{kind}_") and name.endswith("%")
    ]
    tables = {
        "Do the maps sit on what the words name?": FIT,
        "Do the words depend on it?": (*DEPENDENCE, *points),
        "Do the maps sit on anything annotated? (as the paper measures)": ANYTHING,
    }
    return {title: [column for column in columns if column[0] in first] for title, columns in tables.items()}


def winners(summary: Summary, metric: str, more: bool | None) -> set[str]:
    """The methods with the best value of a metric; the true mask is none."""
    if more is None:
        return set()
    values = {name: row[metric].value for name, row in summary.table.items() if metric in row and name != TRUE_MASK}
    best = (max if more else min)(values.values(), default=None)
    return {name for name, value in values.items() if value == best}


def _cell(estimate: Estimate | None) -> tuple[str, str]:
    """A value and its interval."""
    if estimate is None:
        return "", ""
    digits = 1 if abs(estimate.high) >= 10 else 3
    return f"{estimate.value:.{digits}f}", f"{estimate.low:.{digits}f} to {estimate.high:.{digits}f}"


def _arrow(more: bool | None) -> str:
    return "" if more is None else " ↑" if more else " ↓"


def _sentence(summary: Summary, settings: Settings) -> str:
    return (
        f"{summary.words} words of {summary.named} answers that name something annotated, of {summary.samples} samples "
        f"of {settings.data}, answered by {settings.model}. {summary.missing} regions are not measured: no word names "
        "them." + ("" if settings.profile is None else f" All maps are refined by the profile {settings.profile}.")
    )


_NOTE = (
    f"Means over words (contrast: the median), with {LEVEL:.0%} bootstrap intervals over samples. The best method of a "
    "column is in bold; the true mask is the upper end of the scale and no method."
)


def _plain(text: str) -> str:
    """A text of somebody else on one line of Markdown, whose characters mean nothing there."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return _MARKS.sub(r"\\\g<0>", escape(" ".join(line.split()), quote=False))


def to_markdown(summary: Summary, settings: Settings, shown: Sequence[Shown]) -> str:
    """The report as Markdown; pictures are those of `write_report`."""
    title = _plain(f"Evaluation of {settings.model} on {settings.data}")
    lines = [f"# {title}", "", _plain(_sentence(summary, settings)), "", _NOTE]
    for title, columns in tables_of(summary).items():
        best = {metric: winners(summary, metric, more) for metric, _, more in columns}
        lines += ["", f"## {title}", ""]
        lines += ["| method | " + " | ".join(heading + _arrow(more) for _, heading, more in columns) + " |"]
        lines += ["| --- |" + " ---: |" * len(columns)]
        for name, row in summary.table.items():
            cells = []
            for metric, _, _ in columns:
                value, interval = _cell(row.get(metric))
                marked = f"**{value}**" if name in best[metric] else value
                cells.append(f"{marked} ({interval})" if value else "")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if summary.words:
        lines += ["", f"![Deletion and insertion curves]({PICTURES}/curves.png)"]
    if summary.randomization:
        lines += ["", "## Model randomization", "", _RANDOMISATION, ""]
        depth = len(next(iter(summary.randomization.values())))
        lines += ["| method | " + " | ".join(f"{count} blocks" for count in range(1, depth + 1)) + " |"]
        lines += ["| --- |" + " ---: |" * depth]
        for name, curve in summary.randomization.items():
            lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in curve) + " |")
    if shown:
        lines += ["", "## Best and worst cases"]
        for one in shown:
            lines += ["", _plain(one.title), "", f"From left to right: {', '.join(one.headings)}.", ""]
            lines += [f"![{one.name}]({PICTURES}/{one.name}.png)"]
    return "\n".join(lines) + "\n"


_RANDOMISATION = (
    "Correlation of the maps with those of the same model after its last blocks, one more each time, lost what they "
    "learned. A map that explains the model changes."
)


def to_html(summary: Summary, settings: Settings, shown: Sequence[Shown], curves: NDArray[np.uint8] | None) -> str:
    """The report as a self-contained HTML page."""
    tables = []
    for title, columns in tables_of(summary).items():
        best = {metric: winners(summary, metric, more) for metric, _, more in columns}
        rows = {
            name: [(*_cell(row.get(metric)), name in best[metric]) for metric, _, _ in columns]
            for name, row in summary.table.items()
        }
        headings = [heading + _arrow(more) for _, heading, more in columns]
        tables.append({"title": title, "headings": headings, "rows": rows.items()})
    return render(
        "evaluation.html",
        title=f"{settings.model} on {settings.data}",
        sentence=_sentence(summary, settings),
        note=_NOTE,
        tables=tables,
        curves=None if curves is None else data_url(curves),
        randomization=summary.randomization,
        randomization_note=_RANDOMISATION,
        cases=[(case.title, list(zip(case.headings, map(data_url, case.pictures), strict=True))) for case in shown],
    )


def draw_curves(summary: Summary) -> NDArray[np.uint8]:
    """Deletion and insertion curves of all methods, uint8 [H, W, 3]."""
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
    """The words with the highest and the lowest F3 by a method, at most `FIRST` each and one a sample: (``"best"`` or
    ``"worst"``, sample, word, F3)."""
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
            if index not in taken and picked < FIRST:
                taken.add(index)
                picked += 1
                chosen.append((label, index, word, value))
    return chosen


def show_cases(adapter: Adapter[Any], dataset: Dataset, settings: Settings, records: Sequence[Record]) -> list[Shown]:
    """The best and worst cases of the run's first method, explained again for their pictures."""
    shown, counts = [], {"best": 0, "worst": 0}
    for label, index, word, value in extremes(records, settings.methods[0]):
        answer, case = prepare(adapter, dataset[index], settings.steps, settings.block_length)
        if case is None:
            raise RuntimeError(f"report: sample {index} must be answered as it was in the run, got {answer!r}")
        counts[label] += 1
        height, width = case.masks.shape[1:]
        wide, high = fit(width, height, PANEL, PANEL)
        image = resized(case.sample.image, wide, high)
        mask = resized(case.masks[word].cpu().numpy().astype(np.uint8)[..., None].repeat(3, 2) * 255, wide, high)
        boxes = case.inputs.views[0].boxes
        boxes = boxes * boxes.new_tensor([wide / width, high / height, wide / width, high / height])
        pixels = torch.tensor(image, device=boxes.device)
        maps = all_maps(adapter, case, settings)
        pictures = [ops.overlay(of[word : word + 1], pixels, boxes)[0].cpu().numpy() for of in maps.values()]
        shown.append(
            Shown(
                title=f"{label.capitalize()} {counts[label]}: “{case.words[word].text}” in “{answer}” "
                f"({case.sample.id}), F3 of {settings.methods[0]} {value:.2f}",
                name=f"{label}-{counts[label]}",
                headings=("the mask", *maps),
                pictures=(_outlined(image, mask[..., 0] >= 128), *pictures),
            )
        )
    return shown


def _outlined(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The image darkened outside the mask, whose edge is drawn."""
    padded = np.pad(mask, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    picture = np.where(mask[..., None], image, image // 2)
    return np.where((mask & ~inner)[..., None], np.array(OUTLINE, np.uint8), picture).astype(np.uint8)


def _strip(pictures: Sequence[NDArray[np.uint8]]) -> Image.Image:
    """Pictures of one height, side by side with white between them."""
    gap = np.full((pictures[0].shape[0], 6, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)][:-1]
    return Image.fromarray(np.concatenate(parts, 1))


def write_report(
    adapter: Adapter[Any],
    dataset: Dataset,
    settings: Settings,
    records: Sequence[Record],
    summary: Summary,
    folder: Path,
) -> None:
    """Writes `MARKDOWN`, `PAGE` and `PICTURES` into the run's folder."""
    shown = show_cases(adapter, dataset, settings, records)
    curves = draw_curves(summary) if summary.words else None
    with replacing(folder, "evaluate") as draft:
        pictures = draft / PICTURES
        pictures.mkdir()
        if curves is not None:
            Image.fromarray(curves).save(pictures / "curves.png")
        for one in shown:
            _strip(one.pictures).save(pictures / f"{one.name}.png")
        write_text(draft / MARKDOWN, to_markdown(summary, settings, shown))
        write_text(draft / PAGE, to_html(summary, settings, shown, curves))
    former = {f"{label}-{number}" for label in ("best", "worst") for number in range(1, FIRST + 1)}
    for name in former - {one.name for one in shown}:  # of an earlier report on more samples
        (folder / PICTURES / f"{name}.png").unlink(missing_ok=True)
