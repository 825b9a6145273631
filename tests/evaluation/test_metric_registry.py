"""The registry of metrics: registered metrics are measured and reported, and names are unique."""

from __future__ import annotations

from unittest import mock

import pytest

from dcam_fast.evaluation.cases import mask_maps, prepare
from dcam_fast.evaluation.datasets import Scenes
from dcam_fast.evaluation.measurement import measure
from dcam_fast.evaluation.registry import METRICS, Metric, register_metric
from dcam_fast.evaluation.runner import EvaluationConfig
from dcam_fast.models.tiny.adapter import TinyAdapter
from dcam_fast.output.tables import markdown_table


def test_registered_metrics_are_measured_and_part_of_the_run() -> None:
    _, case = prepare(TinyAdapter(), Scenes(1, 31_000)[0])
    assert case is not None
    maps = mask_maps(case)
    built_in = measure(case, maps)
    assert built_in.keys() - METRICS.keys() == {"contrast_score"}, "a factor of F3, not reported"
    with mock.patch.dict(METRICS):
        register_metric(Metric("total", "localization", None, compute=lambda case, maps: maps.sum((1, 2)).tolist()))
        assert measure(case, maps) == built_in | {"total": maps.sum((1, 2)).tolist()}
        assert EvaluationConfig("tiny", "scenes", ("random",), 0).facts()["metrics"] == list(METRICS)
        with pytest.raises(ValueError, match="register_metric: name must be new, got 'total'"):
            register_metric(METRICS["total"])
    with pytest.raises(ValueError, match="register_metric: compute must be a function, got None for 'total'"):
        register_metric(Metric("total", "localization", None))


def test_markdown_table_checks_its_rows() -> None:
    assert markdown_table(["a", "b"], [["1", "2"]], "rl") == "| a | b |\n| ---: | --- |\n| 1 | 2 |"
    with pytest.raises(ValueError, match="markdown_table: rows must have 2 cells, got 1"):
        markdown_table(["a", "b"], [["1"]])
