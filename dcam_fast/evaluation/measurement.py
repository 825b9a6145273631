"""The metrics of the maps of a case."""

from __future__ import annotations

from torch import Tensor

from dcam_fast import ops
from dcam_fast.evaluation.cases import EvaluationCase
from dcam_fast.evaluation.metrics import inter_word_correlation, overlap, points_at
from dcam_fast.evaluation.perturbation import Curves
from dcam_fast.evaluation.registry import METRICS
from dcam_fast.torch_modes import own_modes

Metrics = dict[str, list[float]]


@own_modes()
def measure(case: EvaluationCase, maps: Tensor) -> Metrics:
    """The metrics of the maps `[T, h, w]` of a case: for each name, one value for each word.

    `inter_word_correlation` has one value for all words, or none if all name the same region. Metrics named `any_*` are
    measured as in the paper: against every region of the image, whichever the word names.
    """
    boxes = case.inputs.views[0].boxes
    height, width = case.masks.shape[1:]
    pixels = ops.upsample(maps, boxes, (height, width))
    named = overlap(pixels, case.masks.long())
    annotated = overlap(pixels, case.labels)
    pointing = points_at(maps, boxes, case.masks)
    correlation = inter_word_correlation(maps, case.region_index)
    metrics = {
        "pointing": pointing.double().tolist(),
        "wrong": (points_at(maps, boxes, case.others) & ~pointing).double().tolist(),
        "obj_iou": named.obj_iou.tolist(),
        "func_iou": named.func_iou.tolist(),
        "precision": named.precision.tolist(),
        "recall": named.recall.tolist(),
        "contrast": named.contrast.tolist(),
        "contrast_score": named.contrast_score.tolist(),
        "concentration": named.concentration.tolist(),
        "f3": named.f3_harmonic.tolist(),
        "f3_geometric": named.f3_geometric.tolist(),
        "any_obj_iou": annotated.obj_iou.tolist(),
        "any_contrast": annotated.contrast.tolist(),
        "any_concentration": annotated.concentration.tolist(),
        "any_f3": annotated.f3_harmonic.tolist(),
        "inter_word_correlation": [] if correlation is None else [correlation],
    }
    registered = ((name, metric.compute) for name, metric in METRICS.items() if metric.compute is not None)
    return metrics | {name: [float(value) for value in compute(case, maps)] for name, compute in registered}


def curve_metrics(curves: Curves) -> Metrics:
    """The areas under both curves, and their inner points by the percentage of the cells: one value for each word."""
    metrics = {"deletion_area": curves.deletion_area.tolist(), "insertion_area": curves.insertion_area.tolist()}
    for index, share in enumerate(curves.shares.tolist()[1:-1], 1):
        metrics[f"deletion_{100 * share:.3g}%"] = curves.deletion[:, index].tolist()
        metrics[f"insertion_{100 * share:.3g}%"] = curves.insertion[:, index].tolist()
    return metrics
