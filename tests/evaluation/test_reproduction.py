"""The paper's tables on any data: what is measured, how it is printed, what the command writes."""

from __future__ import annotations

import json
import statistics
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dcam_fast.attribution import METHODS
from dcam_fast.attribution.methods.presets import DIFFUSION_CAM, PUBLISHED
from dcam_fast.cli import app as cli
from dcam_fast.config import DEFAULT, PAPER, RAW
from dcam_fast.evaluation.aggregate import Estimate
from dcam_fast.evaluation.cases import case_maps, prepare
from dcam_fast.evaluation.datasets import Region, Sample, Scenes
from dcam_fast.evaluation.datasets.synthetic import SELECTION_SEED
from dcam_fast.evaluation.measurement import measure
from dcam_fast.evaluation.studies.reproduction import (
    STUDIES,
    TABLE1,
    TABLE2,
    Reproduction,
    Study,
    StudyRow,
    reproduce,
    to_markdown,
)
from dcam_fast.models.tiny.adapter import TinyAdapter

SMALL = Study(
    "Small", "Two rows.", (StudyRow("ours", DIFFUSION_CAM, coco=(1, 2, 3, 4)), StudyRow("noise", METHODS["random"]))
)


@pytest.fixture(scope="module")
def adapter() -> TinyAdapter:
    return TinyAdapter()


def test_rows_are_means_over_all_words(adapter: TinyAdapter) -> None:
    dataset = Scenes(3, SELECTION_SEED)
    calls: list[tuple[int, int]] = []
    result = reproduce(adapter, dataset, SMALL, 2, lambda done, total: calls.append((done, total)))
    assert calls == [(0, 2), (1, 2), (2, 2)]
    values: dict[str, list[float]] = {"any_f3": [], "any_contrast": [], "f3": []}
    for index in range(2):
        _, case = prepare(adapter, dataset[index])
        assert case is not None
        measured = measure(case, case_maps(adapter, case, {"": DIFFUSION_CAM})[""])
        for name, row in values.items():
            row += measured[name]
    assert result.samples == 2
    assert result.words == len(values["f3"])
    ours = result.table["ours"]
    assert ours["any_f3"].value == pytest.approx(statistics.fmean(values["any_f3"]))
    assert ours["any_contrast"].value == pytest.approx(statistics.median(values["any_contrast"]))
    assert ours["f3"].value == pytest.approx(statistics.fmean(values["f3"]))
    assert ours["f3"].value > 2 * result.table["noise"]["f3"].value
    assert ours["f3"].low <= ours["f3"].value <= ours["f3"].high


def test_answers_without_named_regions_are_skipped(adapter: TinyAdapter) -> None:
    mask = np.ones((64, 64), bool)
    blank = Sample("blank", np.full((64, 64, 3), 90, np.uint8), None, "zebra", (Region("zebra", mask),))
    result = reproduce(adapter, [blank], SMALL, 5)
    assert result == Reproduction(0, 0, {"ours": {}, "noise": {}})
    assert "0 words of 0 answers" in to_markdown(SMALL, result, "tiny", "folder:x")


def test_table_by_hand() -> None:
    row = {
        "any_obj_iou": Estimate(0.5, 0.4, 0.6, 7),
        "any_contrast": Estimate(2.5, 2, 3, 7),
        "any_concentration": Estimate(0.125, 0.1, 0.2, 7),
        "any_f3": Estimate(0.25, 0.2, 0.3, 7),
        "f3": Estimate(0.75, 0.7, 0.8, 7),
    }
    lines = to_markdown(SMALL, Reproduction(3, 7, {"ours": row, "noise": {}}), "tiny", "scenes").splitlines()
    assert lines[0] == "### Small"
    assert lines[2] == "7 words of 3 answers of tiny on scenes. Two rows."
    assert lines[4] == "|  | obj_iou | contrast | concentration | F3 | F3 of the named region | paper, COCO Caption |"
    assert lines[6] == (
        "| ours | 50.00 (40.00 to 60.00) | 2.50 (2.00 to 3.00) | 12.50 (10.00 to 20.00) | 25.00 (20.00 to 30.00) "
        "| 75.00 (70.00 to 80.00) | 1.00 / 2.00 / 3.00 / 4.00 |"
    )
    assert lines[7] == "| noise |  |  |  |  |  |  |"


def test_rows_have_unique_names_and_their_settings() -> None:
    for study in STUDIES.values():
        names = [row.name for row in study.rows]
        assert len(set(names)) == len(names)
    rows = {row.name: row.method for study in (TABLE1, TABLE2) for row in study.rows}
    assert rows["default"] is DIFFUSION_CAM
    assert rows["Diffusion-CAM"] is PUBLISHED
    assert rows["baseline"].profile == RAW
    assert rows["all"].profile == PAPER
    assert rows["default without SICD"].profile == replace(DEFAULT, debiasing=False)
    assert rows["raw + CBA"].profile.attenuation_weights == DEFAULT.attenuation_weights
    assert rows["raw + CBA"].profile.denoise == "none"


def test_sensitivity_changes_one_setting_in_each_row() -> None:
    for row in STUDIES["sensitivity"].rows:
        base = PAPER if row.name.startswith("paper") else DEFAULT
        changed = [f.name for f in fields(base) if getattr(row.method.profile, f.name) != getattr(base, f.name)]
        assert len(changed) <= 1, row.name
    profiles = [row.method.profile for row in STUDIES["sensitivity"].rows]
    assert len(set(profiles)) == len(profiles)


def test_command_writes_table_and_record(tmp_path: Path) -> None:
    arguments = ["reproduce", "table1", "--limit", "1", "--data", "hard-scenes", "--out", str(tmp_path)]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    table = (tmp_path / "table1.md").read_text()
    assert "30.10 / 2.58 / 51.41 / 23.04" in table
    assert "on hard-scenes" in table
    record = json.loads((tmp_path / "table1.json").read_text())
    assert record["study"] == "table1"
    assert record["limit"] == 1
    assert record["seed"] == SELECTION_SEED
    assert set(record["table"]) == {row.name for row in TABLE1.rows}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["table3"], 2, "reproduce: study must be one of table1, table2, sensitivity, got 'table3'"),
        (["table1", "--data", "folder:/no/such"], 1, "error: ImageFolder: folder must exist, got '/no/such'"),
    ],
)
def test_usage_errors_are_on_one_line(arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["reproduce", *arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == code
    assert message in result.output
    assert not (tmp_path / "out").exists()
