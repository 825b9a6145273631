"""The tables of the paper on any model and data: `dcam-fast reproduce table1|table2|sensitivity`.

As in the paper (arXiv 2604.11005), the map of a word is compared with every annotated region of its image (`any_*` of
`measurement.measure`). A map that is the same for all words can do well on this. A last column has F3 for the named
region.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from dcam_fast._version import __version__
from dcam_fast.attribution.methods.presets import DIFFUSION_CAM, METHODS, PUBLISHED
from dcam_fast.attribution.methods.protocol import AttributionMethod
from dcam_fast.config import DEFAULT, PAPER, RAW, Mode, RefineConfig
from dcam_fast.evaluation.aggregate import Aggregate, Estimate
from dcam_fast.evaluation.cases import case_maps, prepare
from dcam_fast.evaluation.datasets import Dataset
from dcam_fast.evaluation.measurement import measure
from dcam_fast.evaluation.registry import METRICS
from dcam_fast.folders import replacing, write_json, write_text
from dcam_fast.models.adapter import Adapter
from dcam_fast.output.tables import markdown_table

ANNOTATED: Final = ("any_obj_iou", "any_contrast", "any_concentration", "any_f3")  # the metrics of the paper
NAMED: Final = "f3"  # for the region that the word names
RATIO: Final = "any_contrast"  # not in percent

PaperValues = tuple[float, float, float, float]  # of `ANNOTATED`, in percent except the ratio


@dataclass(frozen=True)
class StudyRow:
    """A method, its name in the table, and the values of the paper on COCO Caption and GranDf."""

    name: str
    method: AttributionMethod
    coco: PaperValues | None = None
    grandf: PaperValues | None = None


@dataclass(frozen=True)
class Study:
    """A table: its title, a note, and its rows."""

    title: str
    note: str
    rows: tuple[StudyRow, ...]


@dataclass(frozen=True)
class Reproduction:
    """The results of a study: the number of samples and words, and for each row the estimate of each metric."""

    samples: int
    words: int
    table: dict[str, dict[str, Estimate]]


def _refined(**changes: Any) -> AttributionMethod:
    """The published method with a changed profile `paper`."""
    return replace(PUBLISHED, profile=replace(PAPER, **changes))


def _shifted(shift: float) -> tuple[float, ...]:
    return tuple(percent + shift for percent in PAPER.gating_percentiles)


def _default(profile: RefineConfig) -> AttributionMethod:
    return replace(DIFFUSION_CAM, profile=profile)


def _times(config: RefineConfig, factor: float) -> dict[str, Any]:
    return {"attenuation_weights": tuple(round(factor * weight, 4) for weight in config.attenuation_weights)}


TABLE1: Final = Study(
    "The comparison (the paper's table 1)",
    "Diffusion-CAM is the method `published`. The row `default` has the default method of this package.",
    (
        StudyRow("LLaVA-CAM", METHODS["llava_cam"], (20.02, 2.18, 41.22, 18.08), (18.16, 1.41, 70.80, 14.22)),
        StudyRow("Grad-CAM", METHODS["grad_cam_paper"], (19.93, 2.04, 41.91, 17.43), (17.82, 1.48, 75.42, 14.67)),
        StudyRow("TAM", METHODS["tam"], (15.21, 2.51, 40.10, 17.61), (20.39, 1.36, 67.31, 14.23)),
        StudyRow("Diffusion-CAM", PUBLISHED, (30.10, 2.58, 51.41, 23.04), (28.41, 2.02, 86.14, 20.53)),
        StudyRow("default", DIFFUSION_CAM),
    ),
)
_BASELINE: Final = (20.12, 2.19, 41.42, 18.16)
_ABLATION: Final[tuple[tuple[str, Mode, PaperValues], ...]] = (
    ("+ AKD", "gaussian_only", (25.85, 2.28, 44.01, 20.16)),
    ("+ DACG", "confidence_only", (21.22, 2.20, 47.94, 18.88)),
    ("+ CBA", "background_only", (21.42, 2.41, 42.63, 19.59)),
    ("+ SICD", "debiasing_only", (24.11, 2.29, 44.31, 19.82)),
    ("all", "all_methods", (30.10, 2.58, 51.44, 23.04)),
)
TABLE2: Final = Study(
    "The ablation (the paper's table 2), and the ablation of the default profile",
    "First the modules of the profile `paper`, on the raw map of the published method and of the default. Then the "
    "modules of the profile `default` on its raw map. This profile denoises along the edges of the image and has no "
    "gating.",
    (
        StudyRow("baseline", replace(PUBLISHED, profile=RAW), _BASELINE),
        *(StudyRow(name, replace(PUBLISHED, profile=PAPER.ablation(mode)), coco) for name, mode, coco in _ABLATION),
        StudyRow("default's raw map", _default(RAW)),
        *(StudyRow(f"raw {name}, as in the paper", _default(PAPER.ablation(mode))) for name, mode, _ in _ABLATION),
        StudyRow("raw + guided", _default(DEFAULT.ablation("gaussian_only"))),
        StudyRow("raw + CBA", _default(DEFAULT.ablation("background_only"))),
        StudyRow("raw + SICD", _default(DEFAULT.ablation("debiasing_only"))),
        StudyRow("default", DIFFUSION_CAM),
        StudyRow("default without guided", _default(replace(DEFAULT, denoise="none"))),
        StudyRow("default without CBA", _default(replace(DEFAULT, attenuation=False))),
        StudyRow("default without SICD", _default(replace(DEFAULT, debiasing=False))),
    ),
)
SENSITIVITY: Final = Study(
    "Hyper-parameters, one at a time",
    "The published method with the profile `paper`, then the default. The paper's own values are not available.",
    (
        StudyRow("paper", replace(PUBLISHED, profile=PAPER)),
        *(StudyRow(f"paper: step_ratio {value}", _refined(step_ratio=value)) for value in (0.0625, 0.125, 1.0)),
        *(StudyRow(f"paper: kernel_size {value}", _refined(kernel_size=value)) for value in (5, 7, 11)),
        *(StudyRow(f"paper: gating_spread {value}", _refined(gating_spread=value)) for value in (0.18, 0.26)),
        *(StudyRow(f"paper: gating_bright {value}", _refined(gating_bright=value)) for value in (0.3, 0.4)),
        *(StudyRow(f"paper: gating_dim {value}", _refined(gating_dim=value)) for value in (0.2, 0.3)),
        *(
            StudyRow(f"paper: percentiles {shift:+d}", _refined(gating_percentiles=_shifted(shift)))
            for shift in (-10, 5)
        ),
        *(StudyRow(f"paper: CBA x{factor}", _refined(**_times(PAPER, factor))) for factor in (0.5, 2, 4)),
        *(StudyRow(f"paper: c_rep {value}", _refined(c_rep=value)) for value in (0.0, 0.05, 0.1)),
        *(StudyRow(f"paper: c_high {value}", _refined(c_high=value)) for value in (0.0, 0.02, 0.1)),
        StudyRow("default", DIFFUSION_CAM),
        *(StudyRow(f"default: guide_radius {v}", _default(replace(DEFAULT, guide_radius=v))) for v in (1, 2, 3, 6)),
        *(
            StudyRow(f"default: guide_epsilon {v}", _default(replace(DEFAULT, guide_epsilon=v)))
            for v in (1e-5, 1e-4, 1e-2)
        ),
        *(StudyRow(f"default: CBA x{v}", _default(replace(DEFAULT, **_times(DEFAULT, v)))) for v in (0.25, 0.5, 2)),
        *(StudyRow(f"default: c_rep {v}", _default(replace(DEFAULT, c_rep=v))) for v in (0.1, 0.2, 0.8)),
        *(StudyRow(f"default: c_high {v}", _default(replace(DEFAULT, c_high=v))) for v in (0.0, 0.1)),
    ),
)
STUDIES: Final = {"table1": TABLE1, "table2": TABLE2, "sensitivity": SENSITIVITY}


def reproduce(
    adapter: Adapter[Any],
    dataset: Dataset,
    study: Study,
    limit: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Reproduction:
    """Measures every row of a study on the first `limit` samples.

    Args:
        adapter: the model.
        dataset: any sequence of `Sample`.
        study: one of `STUDIES`.
        limit: maximum number of samples.
        progress: called with the number of finished samples and the total, at the start and after each sample.
    """
    methods = {row.name: row.method for row in study.rows}
    aggregates = {name: Aggregate() for name in methods}
    total, named, words = min(limit, len(dataset)), 0, 0
    progress(0, total)
    for index in range(total):
        _, case = prepare(adapter, dataset[index])
        if case is not None:
            named, words = named + 1, words + len(case.words)
            for name, maps in case_maps(adapter, case, methods).items():
                measured = measure(case, maps)
                aggregates[name].update({metric: measured[metric] for metric in (*ANNOTATED, NAMED)})
        progress(index + 1, total)
    return Reproduction(named, words, {name: aggregate.compute() for name, aggregate in aggregates.items()})


def to_markdown(study: Study, result: Reproduction, model: str, data: str) -> str:
    """The table as Markdown: the measured values with intervals, then the values of the paper where it has them.

    Args:
        study: the study.
        result: from `reproduce`.
        model: the name of the model.
        data: the name of the dataset.
    """
    published = [("COCO Caption", "coco"), ("GranDf", "grandf")]
    published = [(title, key) for title, key in published if any(getattr(row, key) for row in study.rows)]
    headers = ["", *(METRICS[metric].title for metric in ANNOTATED), "F3 of the named region"]
    headers += [f"paper, {title}" for title, _ in published]
    rows = []
    for row in study.rows:
        cells = [_cell(metric, result.table[row.name].get(metric)) for metric in (*ANNOTATED, NAMED)]
        rows.append([row.name, *cells, *(_paper_cell(getattr(row, key)) for _, key in published)])
    sentence = f"{result.words} words of {result.samples} answers of {model} on {data}. {study.note}"
    return f"### {study.title}\n\n{sentence}\n\n{markdown_table(headers, rows)}\n"


def _cell(metric: str, estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    scale = 1 if metric == RATIO else 100
    value, low, high = (scale * number for number in (estimate.value, estimate.low, estimate.high))
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def _paper_cell(values: PaperValues | None) -> str:
    return "" if values is None else " / ".join(f"{value:.2f}" for value in values)


def write(study: Study, result: Reproduction, name: str, facts: dict[str, object], folder: Path) -> tuple[Path, Path]:
    """Writes `NAME.md` and `NAME.json` into a folder and returns their paths.

    Args:
        study: the study.
        result: from `reproduce`.
        name: of the study and of both files.
        facts: the settings, with `model` and `data`.
        folder: made if it does not exist.
    """
    head = {"study": name, "dcam_fast": __version__, "torch": torch.__version__, **facts}
    with replacing(folder, "reproduce") as draft:
        write_text(draft / f"{name}.md", to_markdown(study, result, str(facts["model"]), str(facts["data"])))
        write_json(draft / f"{name}.json", head | asdict(result))
    return folder / f"{name}.md", folder / f"{name}.json"
