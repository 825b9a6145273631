"""The metrics of an evaluation by name: how each is reported, and where to register another one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from torch import Tensor

if TYPE_CHECKING:
    from dcam_fast.evaluation.cases import EvaluationCase

Table = Literal["localization", "perturbation", "annotated"]


@dataclass(frozen=True)
class Metric:
    """A column of the report.

    Attributes:
        name: the key in records and summaries.
        table: the table that the column belongs to.
        higher_is_better: None if neither direction is better.
        title: the heading; empty for the name.
        median: report the median instead of the mean, for ratios that one dark background would dominate.
        compute: from a case and its maps, float32 `[T, h, w]`, to one value for each of its T words. None for the
            built-in metrics, which are computed together.

    Example:
        >>> Metric("contrast", "localization", True, median=True).heading
        'contrast (median) ↑'
    """

    name: str
    table: Table
    higher_is_better: bool | None
    title: str = ""
    median: bool = False
    compute: Callable[[EvaluationCase, Tensor], Sequence[float]] | None = None

    @property
    def heading(self) -> str:
        """The title with the statistic, and an arrow in the better direction."""
        arrow = "" if self.higher_is_better is None else " ↑" if self.higher_is_better else " ↓"
        return f"{self.title or self.name}{' (median)' * self.median}{arrow}"


METRICS: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric("pointing", "localization", True),
        Metric("wrong", "localization", False, "on another object"),
        Metric("obj_iou", "localization", True),
        Metric("func_iou", "localization", None),
        Metric("precision", "localization", True),
        Metric("recall", "localization", True),
        Metric("contrast", "localization", True, median=True),
        Metric("concentration", "localization", True),
        Metric("f3", "localization", True, "F3"),
        Metric("f3_geometric", "localization", True, "F3 (geometric)"),
        Metric("deletion_area", "perturbation", False, "deletion, area"),
        Metric("insertion_area", "perturbation", True, "insertion, area"),
        Metric("inter_word_correlation", "perturbation", False),
        Metric("any_obj_iou", "annotated", True, "obj_iou"),
        Metric("any_contrast", "annotated", True, "contrast", median=True),
        Metric("any_concentration", "annotated", True, "concentration"),
        Metric("any_f3", "annotated", True, "F3"),
    )
}


def register_metric(metric: Metric) -> None:
    """Adds a metric to every run and report of this process.

    Worker processes import the main module again, so call this at its top level where `run` is given `workers`.

    Raises:
        ValueError: if the name is taken, or if the metric has no `compute`.
    """
    if metric.name in METRICS:
        raise ValueError(f"register_metric: name must be new, got {metric.name!r}")
    if metric.compute is None:
        raise ValueError(f"register_metric: compute must be a function, got None for {metric.name!r}")
    METRICS[metric.name] = metric
