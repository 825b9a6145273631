"""The comparison of contrasts with words runs, on scenes of both kinds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dcam_fast.benchmarks.attribution import contrast
from dcam_fast.benchmarks.report_attribution import contrast as table
from dcam_fast.evaluation.cases import prepare
from dcam_fast.models.tiny.adapter import TinyAdapter


def test_scenes_of_each_kind() -> None:
    found = list(contrast.scenes_of_each_kind(3))
    assert sorted(kind for kind, _ in found) == ["different shapes"] * 3 + ["same shape"] * 3
    for kind, sample in found:
        (_, color, shape), (_, other, other_shape) = (region.name.split() for region in sample.regions)
        assert color != other
        assert (shape == other_shape) == (kind == "same shape")


def test_words_are_contrasted_with_each_other() -> None:
    adapter = TinyAdapter()
    found = (prepare(adapter, sample)[1] for _, sample in contrast.scenes_of_each_kind(5))
    case = contrast.color_words(next(case for case in found if case is not None))
    first, second = (word.text for word in case.words)
    pairs = contrast.contrasts(adapter, case)
    assert [(word.text, word.instead) for word in pairs[contrast.OTHER]] == [(first, second), (second, first)]
    for word in pairs[contrast.ABSENT]:
        assert word.instead not in (first, second)
    assert case.masks[0].logical_and(case.masks[1]).sum() == 0


def test_main_writes_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contrast.main(count=2, attention="joint", out=tmp_path / "a.json")
    data = json.loads((tmp_path / "a.json").read_text())
    assert sum(data["right"].values()) > 0
    for rows in data["tables"].values():
        assert list(rows) == [contrast.WORD, contrast.OTHER, contrast.ABSENT]
    text = table("a.json", data)
    assert f"| `{contrast.OTHER}` |" in text
    assert "right captions of 2" in capsys.readouterr().out
