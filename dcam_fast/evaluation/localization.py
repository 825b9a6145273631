"""Localization on scenes that the embedded model captions without an error: the means that settings are chosen by."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from dcam_fast.attribution.methods.gradient_cam import GradientCAM
from dcam_fast.evaluation.cases import EvaluationCase, case_maps, prepare
from dcam_fast.evaluation.datasets.synthetic import Scenes
from dcam_fast.evaluation.measurement import Metrics, curve_metrics, measure
from dcam_fast.evaluation.perturbation import Perturbation
from dcam_fast.models.adapter import Adapter
from dcam_fast.models.generation import Generation

DELETION = {"deletion_4": "deletion_1.56%", "deletion_32": "deletion_12.5%"}  # masked cells of 256
MEANS = ("pointing", "wrong", "obj_iou", "concentration", "f3")


def draw_cases(adapter: Adapter[Any], count: int, seed: int, steps: int | None = None) -> Iterator[EvaluationCase]:
    """The cases of `count` scenes. Scenes whose caption has an error have no ground truth and are skipped."""
    for sample in Scenes(count, seed):
        _, case = prepare(adapter, sample, Generation(steps))
        if case is not None:
            yield case


def score(adapter: Adapter[Any], case: EvaluationCase, maps: Tensor, with_deletion: bool = True) -> Metrics:
    """The metrics of the maps `[T, h, w]` of a case."""
    if not with_deletion:
        return measure(case, maps)
    perturbation = Perturbation(adapter, case.inputs, case.trajectory, case.words)
    return measure(case, maps) | curve_metrics(perturbation.curves(maps))


def method_maps(adapter: Adapter[Any], case: EvaluationCase, method: GradientCAM) -> Tensor:
    """Refined maps `[T, h, w]` of the words of a case, as `Explainer.explain` makes them."""
    return case_maps(adapter, case, {"": method})[""]


def summarize(measured: Sequence[Metrics]) -> dict[str, float]:
    """Means over words with the standard error of F3; the median for contrast."""
    values = {name: [value for metrics in measured for value in metrics[name]] for name in measured[0]}
    table = {name: statistics.fmean(values[name]) for name in MEANS}
    table["f3_error"] = statistics.pstdev(values["f3"]) / len(values["f3"]) ** 0.5
    table["contrast"] = statistics.median(values["contrast"])
    return table | {name: statistics.fmean(values[key]) for name, key in DELETION.items() if key in values}
