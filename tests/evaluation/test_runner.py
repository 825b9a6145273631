"""The runner: no record is lost or duplicated, and a killed run continues."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from dcam_fast import ops, scenes
from dcam_fast.attribution import METHODS
from dcam_fast.cli import app as cli
from dcam_fast.config import RELEASED
from dcam_fast.evaluation.cases import EvaluationCase, case_maps, mask_maps, prepare
from dcam_fast.evaluation.datasets import ImageFolder, Region, Sample, Scenes, open_dataset
from dcam_fast.evaluation.datasets.synthetic import SELECTION_SEED
from dcam_fast.evaluation.measurement import measure
from dcam_fast.evaluation.records import RECORDS, RUN
from dcam_fast.evaluation.runner import EvaluationConfig, all_maps, run, summarize
from dcam_fast.models.tiny.adapter import TinyAdapter

CONFIG = EvaluationConfig("tiny", "scenes", ("random", "true_mask"), SELECTION_SEED, shares=(0.1,))


@pytest.fixture(scope="module")
def adapter() -> TinyAdapter:
    return TinyAdapter()


@pytest.fixture(scope="module")
def finished(adapter: TinyAdapter, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("run")
    return folder, run(adapter, Scenes(4, SELECTION_SEED), CONFIG, folder, 4)


# `evaluate` in a process that is killed during its third sample.
KILLED = """
import os, signal, sys
from dcam_fast.cli import app as cli
from dcam_fast.evaluation import runner

evaluate = runner.evaluate_sample

def evaluate_or_die(adapter, dataset, index, settings):
    if index == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluate(adapter, dataset, index, settings)

runner.evaluate_sample = evaluate_or_die
cli.app(sys.argv[1:])
"""


def without_seconds(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name != "seconds"} for record in json_of(records)]


def json_of(value: Any) -> Any:
    return json.loads(json.dumps(value))


def nearly(value: Any) -> Any:
    """What equals `value` up to rounding: another process or number of threads sums in another order."""
    if isinstance(value, dict):
        return {name: nearly(item) for name, item in value.items()}
    if isinstance(value, list):
        return [nearly(item) for item in value]
    return pytest.approx(value, abs=1e-4) if isinstance(value, float) else value


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / RECORDS).read_text().splitlines()]


def test_records_have_every_word_and_metric(finished: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, records = finished
    assert [record["index"] for record in records] == [0, 1, 2, 3]
    assert read(folder) == json_of(records)
    sample = Scenes(4, SELECTION_SEED)[0]
    assert records[0]["answer"] == sample.caption.replace(" ,", ",")
    named = [(word["text"], word["region"]) for word in records[0]["words"]]
    assert named == [(word, region.name) for region in sample.regions for word in region.name.split()]
    assert [len(record["words"]) for record in records] == [9, 9, 6, 12]
    for record in records:
        assert tuple(record["methods"]) == CONFIG.methods
        for result in record["methods"].values():
            assert len(result["deletion"]) == len(result["insertion"]) == len(record["words"])
            assert all(len(row) == 3 for row in result["deletion"])
            for metric, values in result["metrics"].items():
                assert len(values) == (1 if metric == "inter_word_correlation" else len(record["words"]))
                assert np.isfinite(values).all()
    assert min(records[0]["methods"]["true_mask"]["metrics"]["obj_iou"]) > 0.5


def test_a_killed_run_continues_where_it_stopped(finished: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    """The records equal those of a run that was not killed."""
    command = [sys.executable, "-m", "dcam_fast", "evaluate", "--limit", "4", "--out", str(tmp_path), "--share", "0.1"]
    command += [part for method in CONFIG.methods for part in ("--method", method)]
    path = tmp_path / RECORDS
    done = subprocess.run([sys.executable, "-c", KILLED, *command[3:]], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert path.read_bytes().count(b"\n") == 2
    with path.open("ab") as file:  # as a process leaves it that is killed during a write
        file.write(b'{"index": 2, "id": "sce')
    finish = CliRunner().invoke(cli.app, command[3:])
    assert finish.exit_code == 0, finish.output
    assert without_seconds(read(tmp_path)) == nearly(without_seconds(finished[1]))
    before = path.read_bytes()
    again = CliRunner().invoke(cli.app, command[3:])
    assert again.exit_code == 0
    assert path.read_bytes() == before, "a finished run has nothing left to do"


def test_workers_write_the_same_records(finished: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    """The adapter of this process is not used."""
    _, records = finished
    shared = run(None, Scenes(4, SELECTION_SEED), CONFIG, tmp_path, 4, workers=2)  # type: ignore[arg-type]
    assert without_seconds(shared) == nearly(without_seconds(records))
    assert sorted(record["index"] for record in read(tmp_path)) == [0, 1, 2, 3]


def test_a_failing_worker_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model must be 'tiny'"):
        run(None, Scenes(2, 1), replace(CONFIG, model="none"), tmp_path, 2, workers=2)  # type: ignore[arg-type]


def test_a_run_with_another_limit_reuses_records(
    adapter: TinyAdapter, finished: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    dataset = Scenes(4, SELECTION_SEED)
    calls: list[tuple[int, int]] = []
    run(adapter, dataset, CONFIG, tmp_path, 2)
    longer = run(adapter, dataset, CONFIG, tmp_path, 3, lambda done, total: calls.append((done, total)))
    assert calls == [(2, 3), (3, 3)]
    assert without_seconds(longer) == nearly(without_seconds(finished[1][:3]))
    assert len(run(adapter, dataset, CONFIG, tmp_path, 1)) == 1
    assert len(read(tmp_path)) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"methods": ("random",)},
            r"evaluate: methods must be what the run in '.*' began with, \['random', 'true_mask'\]",
        ),
        ({"seed": 1}, f"evaluate: seed must be what the run in '.*' began with, {SELECTION_SEED}, got 1"),
        ({"shares": (0.2,)}, r"evaluate: shares must be what the run in '.*' began with, \[0.1\], got \[0.2\]"),
    ],
)
def test_a_folder_with_another_run_is_an_error(
    adapter: TinyAdapter, finished: tuple[Path, list[dict[str, Any]]], change: dict[str, Any], message: str
) -> None:
    folder, _ = finished
    before = (folder / RECORDS).read_bytes()
    with pytest.raises(ValueError, match=message):
        run(adapter, Scenes(4, SELECTION_SEED), replace(CONFIG, **change), folder, 4)
    assert (folder / RECORDS).read_bytes() == before


def test_the_settings_of_methods_belong_to_the_run(
    adapter: TinyAdapter, finished: tuple[Path, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "random", replace(METHODS["random"], seed=5))  # type: ignore[type-var]
    with pytest.raises(ValueError, match="evaluate: settings must be what the run in"):
        run(adapter, Scenes(4, SELECTION_SEED), CONFIG, finished[0], 4)


def test_invalid_and_duplicate_records_are_errors(
    adapter: TinyAdapter, finished: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    dataset = Scenes(4, SELECTION_SEED)
    (tmp_path / RUN).write_bytes((finished[0] / RUN).read_bytes())
    line = (finished[0] / RECORDS).read_text().splitlines(keepends=True)[0]
    (tmp_path / RECORDS).write_text(line + line)
    with pytest.raises(ValueError, match="evaluate: out must hold one record for each sample, got"):
        run(adapter, dataset, CONFIG, tmp_path, 4)
    (tmp_path / RECORDS).write_text("not JSON\n")
    with pytest.raises(ValueError, match="evaluate: out must hold records of a run, got"):
        run(adapter, dataset, CONFIG, tmp_path, 4)
    (tmp_path / RUN).write_text("{")
    with pytest.raises(
        ValueError, match=r"evaluate: out must be empty or hold a run, got .* without a valid run\.json"
    ):
        run(adapter, dataset, CONFIG, tmp_path, 4)


def test_two_runs_in_one_folder_are_an_error(adapter: TinyAdapter, tmp_path: Path) -> None:
    dataset = Scenes(2, SELECTION_SEED)

    def intrude(done: int, total: int) -> None:
        with pytest.raises(BlockingIOError, match=r"evaluate: out must be free, got .* which another run writes to"):
            run(adapter, dataset, CONFIG, tmp_path, 1)

    assert len(run(adapter, dataset, CONFIG, tmp_path, 1, intrude)) == 1


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ((), "evaluate: methods must be distinct, at least one, got none"),
        (("tam", "tam"), "evaluate: methods must be distinct, at least one, got tam, tam"),
        (("best",), "evaluate: method must be one of default, published, .*, true_mask, got 'best'"),
    ],
)
def test_methods_are_checked(methods: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluationConfig("tiny", "scenes", methods, 0)


# ------------------------------------------------------------------------------------------------------------- cases


def test_one_profile_for_all_methods(adapter: TinyAdapter) -> None:
    config = replace(CONFIG, methods=("layer_cam", "random", "true_mask"), profile="released")
    assert {name: method.profile for name, method in config.attributions.items()} == {
        "layer_cam": RELEASED,
        "random": RELEASED,
    }
    _, case = prepare(adapter, Scenes(1, SELECTION_SEED)[0])
    assert case is not None
    raw = case_maps(adapter, case, {"layer_cam": METHODS["layer_cam"]})["layer_cam"]
    expected = ops.refine(raw, RELEASED, repetition=repetition(case))
    maps = all_maps(adapter, case, config)
    torch.testing.assert_close(maps["layer_cam"], expected, rtol=0, atol=1e-6)
    assert maps["true_mask"].equal(mask_maps(case))


def repetition(case: EvaluationCase) -> float:
    """rho of section 5: distinct ids that occur more than once, over the tokens of the answer."""
    counts = torch.unique(case.answer, return_counts=True)[1]
    return int((counts > 1).sum()) / len(case.answer)


def test_answers_with_an_error_name_no_region(adapter: TinyAdapter, tmp_path: Path) -> None:
    right, other = Scenes(2, SELECTION_SEED)
    wrong = replace(right, caption=right.caption.replace("a ", "no ", 1))
    answer, case = prepare(adapter, wrong)
    assert answer == right.caption.replace(" ,", ",")
    assert case is None
    records = run(adapter, [wrong, other], CONFIG, tmp_path, 2)
    assert [len(record["words"]) for record in records] == [0, 9]
    assert summarize(records, CONFIG).words == 9


def test_cases_of_a_folder(adapter: TinyAdapter, tmp_path: Path) -> None:
    """Words match by terms, images have any size, and an answer may name no region."""
    scene = scenes.sample_scene(np.random.default_rng(8), 96, 128, 2)
    for name, text in (
        ("a", f"{scene.objects[0].shape}\n{scene.objects[1].color} {scene.objects[1].shape}"),
        ("b", "dog"),
    ):
        Image.fromarray(scene.image).save(tmp_path / f"{name}.png")
        labels = sum(
            (i + 1) * item.mask.astype(np.uint8) for i, item in enumerate(scene.objects[: len(text.split("\n"))])
        )
        Image.fromarray(np.asarray(labels, np.uint8)).save(tmp_path / f"{name}.mask.png")
        (tmp_path / f"{name}.txt").write_text(text)
    dataset = ImageFolder(tmp_path)
    answer, case = prepare(adapter, dataset[0])
    assert answer == " ".join(scenes.caption(scene).answer)
    assert case is not None
    assert [word.text for word in case.words] == [region.name for region in dataset[0].regions]
    assert torch.equal(case.masks[0], torch.from_numpy(scene.objects[0].mask))
    assert torch.equal(case.others[0], torch.from_numpy(scene.objects[1].mask))
    maps = case_maps(adapter, case, {"default": METHODS["default"]})["default"]
    per_token = case_maps(adapter, case, {"default": METHODS["default"]}, adapter.words(case.trajectory))["default"]
    assert maps.shape == (2, 12, 16)
    # rounding depends on the number of rows in a pass
    torch.testing.assert_close(maps[0], per_token[case.words[0].positions[0]], rtol=0, atol=1e-4)
    assert prepare(adapter, dataset[1]) == (answer, None)
    records = run(adapter, dataset, replace(CONFIG, data="folder", randomized=1), tmp_path / "out", 9)
    assert [len(record["words"]) for record in records] == [2, 0]
    summary = summarize(records, CONFIG)
    assert (summary.samples, summary.named, summary.words) == (2, 1, 2)
    assert summary.randomization["random"] == pytest.approx([1] * 6)


@pytest.mark.skipif(find_spec("pycocotools") is None, reason="pycocotools (the extra 'eval') is not installed")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_run_on_coco_files(adapter: TinyAdapter, tmp_path: Path) -> None:
    """Scenes as COCO files, with shapes as categories."""
    rng = np.random.default_rng(12)
    instances: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    instances["categories"] = [{"id": i, "name": shape} for i, shape in enumerate(scenes.SHAPES)]
    captions, expected = [], []
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    for number in range(2):
        scene = scenes.sample_scene(rng, objects=2)
        Image.fromarray(scene.image).save(tmp_path / "val2017" / f"{number}.png")
        height, width = scene.image.shape[:2]
        instances["images"].append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        captions.append({"image_id": number, "caption": "Shapes."})
        expected.append([item.shape for item in scene.objects])
        for item in scene.objects:
            edges = np.flatnonzero(np.diff(item.mask.flatten("F").astype(int))) + 1
            counts = np.diff([0, *edges, item.mask.size]).tolist()
            segmentation = {"size": list(item.mask.shape), "counts": counts}
            category = scenes.SHAPES.index(item.shape)
            instances["annotations"].append(
                {"image_id": number, "category_id": category, "iscrowd": 1, "segmentation": segmentation}
            )
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(instances))
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps({"annotations": captions}))
    dataset = open_dataset(f"coco:{tmp_path}", limit=9, seed=0)
    records = run(adapter, dataset, replace(CONFIG, data="coco"), tmp_path / "out", 9)
    assert [[word["text"].strip(",") for word in record["words"]] for record in records] == expected
    assert [[word["region"] for word in record["words"]] for record in records] == expected
    assert all(value == 1 for record in records for value in record["methods"]["true_mask"]["metrics"]["pointing"])


def test_true_mask_maps_by_hand(adapter: TinyAdapter) -> None:
    mask = np.zeros((64, 64), bool)
    mask[:8, :6] = True
    _, case = prepare(
        adapter, Sample("x", np.zeros((64, 64, 3), np.uint8), None, "", (Region("a", mask, terms=("a",)),))
    )
    assert case is not None
    cells = mask_maps(case)[0]
    assert cells.shape == (16, 16)  # of 4 x 4 pixels
    assert cells[:2, :2].tolist() == [[1, 0.5], [1, 0.5]]
    assert cells.sum() == 3


def test_measures_by_hand(adapter: TinyAdapter) -> None:
    sample = Scenes(1, SELECTION_SEED)[0]
    _, case = prepare(adapter, sample)
    assert case is not None
    maps = mask_maps(case)
    measured = measure(case, maps)
    assert measured["pointing"] == [1.0] * len(case.words)
    swapped = mask_maps(replace(case, masks=case.masks.roll(3, 0)))  # each word points at the next object
    astray = measure(case, swapped)
    assert (astray["pointing"], astray["wrong"]) == ([0.0] * len(case.words), [1.0] * len(case.words))
    assert measured["any_obj_iou"] == measured["obj_iou"]
    assert astray["any_obj_iou"] == pytest.approx([measured["obj_iou"][i - 3] for i in range(len(case.words))])
    assert min(astray["any_concentration"]) > 0.5 > max(astray["concentration"])
    same = measure(case, maps[:1].expand(len(maps), -1, -1))
    assert same["inter_word_correlation"] == pytest.approx([1])
    one_object = replace(case, region_index=torch.zeros_like(case.region_index))
    assert measure(one_object, maps)["inter_word_correlation"] == []


# --------------------------------------------------------------------------------------------------------------- CLI


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--method", "best"], 2, "evaluate: method must be one of default"),
        (["--profile", "best"], 2, "profile: name must be one of released, paper, default, unguided, got 'best'"),
        (["--data", "imagenet"], 1, "error: open_dataset: name must be scenes, hard-scenes, coco:FOLDER"),
        (["--data", "folder:/no/such"], 1, "error: ImageFolder: folder must exist, got '/no/such'"),
        (["--model", "none"], 1, "error: load: model must be 'tiny'"),
    ],
)
def test_usage_errors_are_one_line(arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["evaluate", "--out", str(tmp_path / "out"), *arguments])
    assert result.exit_code == code
    assert message in result.output
    assert not (tmp_path / "out").exists()
