"""The report of a run: tables, curves and cases, in Markdown and on a page."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from dcam_fast import ops, scenes
from dcam_fast.cli import app as cli
from dcam_fast.evaluation import report, runner
from dcam_fast.evaluation.aggregate import Estimate
from dcam_fast.evaluation.cases import mask_maps, prepare
from dcam_fast.evaluation.datasets import Scenes
from dcam_fast.evaluation.datasets.synthetic import SELECTION_SEED
from dcam_fast.evaluation.registry import METRICS
from dcam_fast.evaluation.runner import EvaluationConfig, Summary, run, summarize
from dcam_fast.models.tiny.adapter import TinyAdapter

CONFIG = EvaluationConfig("tiny", "scenes", ("random", "true_mask"), SELECTION_SEED, shares=(0.1,))


@pytest.fixture(scope="module")
def adapter() -> TinyAdapter:
    return TinyAdapter()


@pytest.fixture(scope="module")
def finished(adapter: TinyAdapter, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("run")
    return folder, run(adapter, Scenes(4, SELECTION_SEED), CONFIG, folder, 4)


def estimates(**values: float) -> dict[str, Estimate]:
    return {name: Estimate(value, value - 0.1, value + 0.1, 7) for name, value in values.items()}


SUMMARY = Summary(
    samples=5,
    named=3,
    words=7,
    missing=4,
    shares=(0.0, 0.1, 1.0),
    table={
        "tam": estimates(
            pointing=0.5, wrong=0.2, func_iou=0.9, contrast=40, deletion_area=0.3, **{"deletion_10%": 0.7}
        ),
        "random": estimates(
            pointing=0.25, wrong=0.1, func_iou=0.5, contrast=1, deletion_area=0.3, **{"deletion_10%": 0.8}
        ),
        "true_mask": estimates(
            pointing=1, wrong=0, func_iou=0.8, contrast=70, deletion_area=0.1, **{"deletion_10%": 0.1}
        ),
    },
    curves={name: {"deletion": [1, 0.5, 0], "insertion": [0, 0.5, 1]} for name in ("tam", "random", "true_mask")},
    randomization={"tam": [0.5, 0.25]},
    seconds=1.0,
)


def test_best_methods_exclude_the_true_mask() -> None:
    assert report.best_methods(SUMMARY, METRICS["pointing"]) == {"tam"}
    assert report.best_methods(SUMMARY, METRICS["wrong"]) == {"random"}
    assert report.best_methods(SUMMARY, METRICS["deletion_area"]) == {"tam", "random"}
    assert report.best_methods(SUMMARY, METRICS["func_iou"]) == set()


def test_markdown_and_html_have_the_same_values() -> None:
    config = replace(CONFIG, methods=("tam", "random", "true_mask"))
    picture = np.zeros((4, 4, 3), np.uint8)
    shown = [report.CasePictures("Best 1: “<b>” in “x”", "best-1", ("mask", "tam"), (picture, picture))]
    markdown = report.to_markdown(SUMMARY, config, shown)
    assert "tiny answered 5 samples of scenes. 7 words of 3 answers name a region. 4 regions are not" in markdown
    assert "| tam | **0.500** (0.400 to 0.600) | 0.200 (0.100 to 0.300) |" in markdown
    assert "| random | 0.250 (0.150 to 0.350) | **0.100** (0.000 to 0.200) |" in markdown
    assert "| pointing ↑ | on another object ↓ | func_iou | contrast (median) ↑ |" in markdown
    assert "| deletion, area ↓ | deletion at 10% ↓ |" in markdown
    assert "| tam | 0.50 | 0.25 |" in markdown
    assert "![best-1](pictures/best-1.png)" in markdown
    page = report.to_html(SUMMARY, config, shown, report.draw_curves(SUMMARY))
    assert '<td class="best">0.500<small>0.400 to 0.600</small>' in page
    assert "“&lt;b&gt;”" in page
    assert "<b>” in" not in page
    assert page.count('<img src="data:image/') == 3
    assert "{{" not in page
    assert not re.search(r"""(?:src|href)=["']?https?:""", page)


def test_report_names_the_profile_of_all_methods() -> None:
    assert "refined by the profile released" in report.to_markdown(SUMMARY, replace(CONFIG, profile="released"), [])
    assert "refined by" not in report.to_markdown(SUMMARY, CONFIG, [])


def test_extremes_take_one_word_of_a_sample() -> None:
    records = [
        {"index": index, "words": ["x"] * len(values), "methods": {"tam": {"metrics": {"f3": values}}}}
        for index, values in enumerate(([0.9, 0.8], [0.1], [], [0.5, 0.7], [0.3], [0.2], [0.4], [0.6]))
    ]
    chosen = report.extremes(records, "tam")
    assert [(label, index, word) for label, index, word, _ in chosen] == [
        ("best", 0, 0),
        ("best", 3, 1),
        ("best", 7, 0),
        ("worst", 1, 0),
        ("worst", 5, 0),
        ("worst", 4, 0),
    ]


def test_report_of_a_run_has_pictures_of_its_cases(
    adapter: TinyAdapter, finished: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    records = finished[1]
    summary = summarize(records, CONFIG)
    values = [value for record in records for value in record["methods"]["random"]["metrics"]["f3"]]
    assert summary.table["random"]["f3"].value == pytest.approx(np.mean(values))
    assert summary.words == len(values)
    report.write_report(adapter, Scenes(4, SELECTION_SEED), CONFIG, records, summary, tmp_path)
    names = sorted(path.name for path in (tmp_path / report.PICTURES).iterdir())
    assert names == ["best-1.png", "best-2.png", "best-3.png", "curves.png", "worst-1.png"]
    strip = np.asarray(Image.open(tmp_path / report.PICTURES / "best-1.png"))
    assert strip.shape == (160, 3 * 160 + 2 * 6, 3)
    _, index, word, value = report.extremes(records, "random")[0]
    assert f"F3 of random {value:.2f}" in (tmp_path / report.MARKDOWN).read_text()
    _, case = prepare(adapter, Scenes(4, SELECTION_SEED)[index])
    assert case is not None
    truth = mask_maps(case)[word : word + 1]
    image = torch.from_numpy(report.resized(case.sample.image, 160, 160))
    expected = ops.overlay(truth, image, case.inputs.views[0].boxes * (160 / 128))[0]
    assert np.array_equal(strip[:, -160:], expected.numpy()), "the last picture is of the true mask"


def test_report_of_an_empty_run(adapter: TinyAdapter, tmp_path: Path) -> None:
    summary = summarize([], CONFIG)
    runner.write_summary(summary, CONFIG, tmp_path)
    report.write_report(adapter, Scenes(0, 0), CONFIG, [], summary, tmp_path)
    assert "0 words of 0 answers" in (tmp_path / report.PAGE).read_text()


@pytest.mark.parametrize("name", [b"caf\xe9", b"a\x1b[31m\nb", "環 <b>|*x*".encode()])
def test_report_with_unusual_file_names(tmp_path: Path, name: bytes) -> None:
    """File names may have Latin-1 and control characters."""
    scene = scenes.sample_scene(np.random.default_rng(3), objects=2)
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    folder.mkdir()
    stem = os.fsdecode(name)
    Image.fromarray(scene.image).save(folder / f"{stem}.png")
    labels = sum(item.mask.astype(np.uint8) * number for number, item in enumerate(scene.objects, 1)).clip(max=2)
    Image.fromarray(labels).save(folder / f"{stem}.mask.png")
    (folder / f"{stem}.txt").write_text("\n".join(f"{item.color} {item.shape}, {item.shape}" for item in scene.objects))
    command = [
        "evaluate",
        "--data",
        f"folder:{folder}",
        "--method",
        "random",
        "--share",
        "0.1",
        "--out",
        tmp_path / "out",
    ]
    for _ in range(2):  # the second run continues the first
        result = CliRunner().invoke(cli.app, list(map(str, command)))
        assert result.exit_code == 0, result.output
    for file in ("report.md", "report.html", "summary.json", "run.json"):
        assert (tmp_path / "out" / file).read_bytes().decode("utf-8")
    assert json.loads((tmp_path / "out/summary.json").read_text("utf-8"))["data"] == f"folder:{folder}"
    lines = (tmp_path / "out/report.md").read_text("utf-8").splitlines()
    assert sum(line.startswith("# ") for line in lines) == 1
    assert not any("<b>" in line or "\x1b" in line for line in lines)


@pytest.mark.parametrize("command", [["evaluate", "--method", "random", "--share", "0.1"], ["reproduce", "table1"]])
def test_a_run_without_named_regions_is_an_error(tmp_path: Path, command: list[str]) -> None:
    scene = scenes.sample_scene(np.random.default_rng(3), objects=2)
    Image.fromarray(scene.image).save(tmp_path / "a.png")
    Image.fromarray(scene.objects[0].mask.astype(np.uint8)).save(tmp_path / "a.mask.png")
    (tmp_path / "a.txt").write_text("zebra\n")
    result = CliRunner().invoke(cli.app, [*command, "--data", f"folder:{tmp_path}", "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert f"error: {command[0]}: data must have regions that the answers name" in result.stderr
    assert "got 0 words of 1" in result.stderr
