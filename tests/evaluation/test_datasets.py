"""Datasets of scenes, GranDf and plain folders, with valid and invalid files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from annotations import (
    coco_files,
    compressed,
    grandf_entries,
    needs_extra,
    save_image,
    square,
    write_coco,
    write_folder,
    write_grandf,
)

from dcam_fast import scenes
from dcam_fast.evaluation.datasets import (
    Dataset,
    GranDf,
    ImageFolder,
    Region,
    Sample,
    Scenes,
    open_dataset,
)
from dcam_fast.evaluation.datasets.masks import decode

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
# ------------------------------------------------------------------------------------------------------------- masks


def test_error_names_the_missing_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ImportError, match=r"pycocotools must be installed .* pip install 'dcam_fast\[eval\]'"):
        open_dataset(f"coco:{tmp_path}", limit=1, seed=0)
    assert decode({"size": [1, 1], "counts": [0, 1]}, (1, 1)).all(), "run lengths do not need it"


# ------------------------------------------------------------------------------------------------------------ scenes


@pytest.mark.parametrize(("name", "prefix"), [("scenes", "scene"), ("hard-scenes", "hard-scene")])
def test_scenes_are_those_of_the_generator_in_any_order(name: str, prefix: str) -> None:
    rng = np.random.default_rng(5)
    drawn = [scenes.sample_scene(rng, hard=name == "hard-scenes") for _ in range(4)]
    dataset = open_dataset(name, limit=4, seed=5)
    assert isinstance(dataset, Scenes)
    assert len(dataset) == 4
    for index in (2, 0, 3, 1):
        sample = dataset[index]
        assert np.array_equal(sample.image, drawn[index].image)
        assert sample.id == f"{prefix}-5-{index}"
        assert [region.name for region in sample.regions] == [
            f"{item.size} {item.color} {item.shape}" for item in drawn[index].objects
        ]
        for region, item in zip(sample.regions, drawn[index].objects, strict=True):
            assert np.array_equal(region.mask, item.mask)
            assert [sample.caption[a:b] for a, b in region.spans] == [item.size, item.color, item.shape]
    assert [sample.id for sample in dataset] == [f"{prefix}-5-{index}" for index in range(4)]
    assert [sample.id for sample in dataset[1:3]] == [f"{prefix}-5-1", f"{prefix}-5-2"]
    assert dataset[-1].id == f"{prefix}-5-3"
    assert [len(sample.regions) for sample in Scenes(3, 5, name == "hard-scenes", objects=2)] == [2, 2, 2]
    for index in (4, -5):
        with pytest.raises(IndexError, match=f"Scenes: index must be from -4 to 3, got {index}"):
            dataset[index]


# ------------------------------------------------------------------------------------------------------------ GranDf


@needs_extra
def test_grandf_phrases_are_regions(tmp_path: Path) -> None:
    dataset = GranDf(write_grandf(tmp_path, grandf_entries()))
    assert len(dataset) == 2
    first, second = dataset
    woman, trees = first.regions  # the third has no pixel
    assert first.id == "sa_1"
    assert [first.caption[a:b] for region in first.regions for a, b in region.spans] == ["A woman in red", "old trees"]
    assert woman.terms == ("a woman in red", "woman", "women")
    assert trees.mask.sum() == 6 + 16
    assert (second.regions, second.image.shape) == ((), (1, 1, 3))


@needs_extra
def test_grandf_errors_name_the_file_and_the_entry(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"GranDf_HA_GCG_train\.json"):
        GranDf(tmp_path)
    with pytest.raises(ValueError, match=r"GranDf: annotations must be JSON, got '.*GranDf_HA_GCG_train.json'"):
        GranDf(write_grandf(tmp_path / "a", "[{]"))
    with pytest.raises(
        ValueError, match=r"^GranDf: \[0\] must be an object with 'file_name', got .* in '.*train.json'"
    ):
        GranDf(write_grandf(tmp_path / "b", [{"caption": ""}]))
    entries = grandf_entries()
    entries[0]["groundings"]["old trees"]["token_positives"] = [20, 90]
    with pytest.raises(ValueError, match=r"\[0\].groundings.old trees.token_positives must be .* got \[20, 90\]"):
        GranDf(write_grandf(tmp_path / "c", entries))
    entries = grandf_entries()
    entries[0]["groundings"]["old trees"]["rle_masks"] = [compressed(square(7, 9))]
    with pytest.raises(ValueError, match=r"old trees.rle_masks\[0\] must be .*size \[7, 9\] for an image of \[6, 10\]"):
        GranDf(write_grandf(tmp_path / "d", entries))[0]
    entries[1]["file_name"] = "sa_3.jpg"
    with pytest.raises(FileNotFoundError, match=r"sa_3\.jpg"):
        GranDf(write_grandf(tmp_path / "e", entries))[1]
    folder = tmp_path / "f" / "annotations" / "train"
    folder.mkdir(parents=True)
    (folder / "GranDf_HA_GCG_train.json").write_text("[]")
    with pytest.raises(FileNotFoundError, match="GranDf: folder must hold GranDf_HA_images/train, got"):
        GranDf(tmp_path / "f")


# ------------------------------------------------------------------------------------------------------------ folder


def test_folder_labels_are_regions(tmp_path: Path) -> None:
    (sample,) = ImageFolder(write_folder(tmp_path))
    assert (sample.id, sample.caption, sample.prompt) == ("photo.v2", "", None)
    dog, boat = sample.regions
    assert dog.terms == ("dog", "puppy")
    assert np.array_equal(dog.mask, square(6, 10))
    assert (boat.name, int(boat.mask.sum())) == ("båt", 10)


def test_folder_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="ImageFolder: folder must exist, got"):
        ImageFolder(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="ImageFolder: folder must hold images"):
        ImageFolder(tmp_path)
    for number, ending in enumerate((".mask.png", ".txt")):
        folder = write_folder(tmp_path / str(number))
        (folder / f"photo.v2{ending}").unlink()
        with pytest.raises(FileNotFoundError, match=f"'photo.v2.jpg' must have a file 'photo.v2{ending}' next to it"):
            ImageFolder(folder)
    with pytest.raises(ValueError, match=r"'photo.v2.txt' must have a line for label 3, got 1 lines"):
        ImageFolder(write_folder(tmp_path / "a", "dog"))[0]
    with pytest.raises(ValueError, match=r"mask must have one channel, got '.*photo.v2.mask.png' with 3"):
        ImageFolder(write_folder(tmp_path / "b", mode="RGB"))[0]
    folder = write_folder(tmp_path / "c")
    (folder / "photo.v2.mask.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"mask must be a picture, got '.*photo.v2.mask.png'"):
        ImageFolder(folder)[0]
    folder = write_folder(tmp_path / "d")
    (folder / "photo.v2.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match=r"text must be UTF-8, got '.*photo.v2.txt'"):
        ImageFolder(folder)[0]
    folder = write_folder(tmp_path / "e")
    save_image(folder / "photo.v2.jpg", 5, 5)
    with pytest.raises(ValueError, match=r"'photo.v2.jpg' must be an image of \(6, 10\) .*, got .* of \(5, 5\)"):
        ImageFolder(folder)[0]


# ------------------------------------------------------------------------------------------------------------ by name


@needs_extra
def test_datasets_open_by_name(tmp_path: Path) -> None:
    datasets: Sequence[Dataset] = [
        open_dataset("scenes", limit=3, seed=1),
        open_dataset(f"coco:{write_coco(tmp_path / 'coco', *coco_files())}", limit=1, seed=0),
        open_dataset(f"grandf:{write_grandf(tmp_path / 'grandf', grandf_entries())}", limit=1, seed=0),
        open_dataset(f"folder:{write_folder(tmp_path / 'folder')}", limit=1, seed=0),
    ]
    assert [len(dataset) for dataset in datasets] == [3, 3, 2, 1]
    for name in ("imagenet", "coco", "coco:", "scenes:1"):
        with pytest.raises(
            ValueError,
            match="open_dataset: name must be scenes, hard-scenes, coco:FOLDER, grandf:FOLDER, folder:FOLDER",
        ):
            open_dataset(name, limit=1, seed=0)


def test_sample_checks_the_size_of_its_masks() -> None:
    with pytest.raises(ValueError, match=r"mask of 'dog' in x must be \[2, 2\] like the image, got \[2, 3\]"):
        Sample("x", np.zeros((2, 2, 3), np.uint8), None, "", (Region("dog", np.ones((2, 3), bool)),))
