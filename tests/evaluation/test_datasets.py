"""Every dataset on a few images made here in its exact format, sound and broken."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dcam_fast import scenes
from dcam_fast.evaluation.datasets import (
    CocoCaptions,
    Dataset,
    GranDf,
    ImageFolder,
    Region,
    Sample,
    Scenes,
    open_dataset,
)
from dcam_fast.evaluation.datasets.masks import decode
from dcam_fast.images import ImageError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
needs_extra = pytest.mark.skipif(
    importlib.util.find_spec("pycocotools") is None, reason="pycocotools (the extra 'eval') is not installed"
)

SQUARE = [2.0, 1.0, 6.0, 1.0, 6.0, 5.0, 2.0, 5.0]  # columns 2 to 5 and rows 1 to 4


def square(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[1:5, 2:6] = True
    return mask


def run_lengths(mask: np.ndarray) -> list[int]:
    """Uncompressed, as COCO's crowds: columns first, zeros first."""
    flat = mask.flatten(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate(([0], edges, [flat.size]))).tolist()
    return [0, *lengths] if flat[0] else lengths


def compressed(mask: np.ndarray) -> dict[str, Any]:
    from pycocotools import mask as coco_masks

    encoded = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def save_image(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(height).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(path)


# ------------------------------------------------------------------------------------------------------------- masks


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ImportError, match=r"pycocotools must be installed .* pip install 'dcam_fast\[eval\]'"):
        open_dataset(f"coco:{tmp_path}", limit=1, seed=0)
    assert decode({"size": [1, 1], "counts": [0, 1]}, (1, 1)).all(), "run lengths need it not"


# ------------------------------------------------------------------------------------------------------------ scenes


@pytest.mark.parametrize(("name", "prefix"), [("scenes", "scene"), ("hard-scenes", "hard-scene")])
def test_scenes_are_the_generators_and_any_may_be_asked_for(name: str, prefix: str) -> None:
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
    with pytest.raises(IndexError):
        dataset[4]


# -------------------------------------------------------------------------------------------------------------- COCO


def coco_files() -> tuple[dict[str, Any], dict[str, Any]]:
    captions = {
        "annotations": [
            {"id": 1, "image_id": 7, "caption": "Two puppies  and a teddy bear\nin a café."},
            {"id": 2, "image_id": 7, "caption": "A second caption."},
            {"id": 3, "image_id": 9, "caption": "Nothing."},
            {"id": 4, "image_id": 8, "caption": "A person."},
            {"id": 5, "image_id": 5, "caption": "No instances."},
        ]
    }
    crowd = np.zeros((6, 10), bool)
    crowd[:, 9] = True
    instances = {
        "images": [
            {"id": 7, "file_name": "000000000007.jpg", "height": 6, "width": 10},
            {"id": 8, "file_name": "000000000008.jpg", "height": 1, "width": 1},
            {"id": 9, "file_name": "000000000009.jpg", "height": 4, "width": 4},
            {"id": 5, "file_name": "000000000005.jpg", "height": 4, "width": 4},
        ],
        "categories": [
            {"id": 18, "name": "dog"},
            {"id": 88, "name": "teddy bear"},
            {"id": 23, "name": "bear"},
            {"id": 1, "name": "person"},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "iscrowd": 0, "segmentation": [SQUARE]},
            {
                "id": 2,
                "image_id": 7,
                "category_id": 18,
                "iscrowd": 1,
                "segmentation": {"size": [6, 10], "counts": run_lengths(crowd)},
            },
            {"id": 3, "image_id": 7, "category_id": 88, "iscrowd": 0, "segmentation": [[7, 0, 9, 0, 9, 2, 7, 2]]},
            {"id": 4, "image_id": 7, "category_id": 23, "iscrowd": 0, "segmentation": [[0, 0, 1, 0]]},
            {
                "id": 5,
                "image_id": 8,
                "category_id": 1,
                "iscrowd": 0,
                "segmentation": {"size": [1, 1], "counts": [0, 1]},
            },
            {"id": 6, "image_id": 9, "category_id": 1, "iscrowd": 0, "segmentation": []},
        ],
    }
    return captions, instances


def write_coco(folder: Path, captions: Any, instances: Any, images: str = "val2017") -> Path:
    (folder / "annotations").mkdir(parents=True)
    for kind, content in (("captions", captions), ("instances", instances)):
        path = folder / "annotations" / f"{kind}_val2017.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), "utf-8")
    for entry in coco_files()[1]["images"]:
        save_image(folder / images / entry["file_name"], entry["height"], entry["width"])
    return folder


@needs_extra
@pytest.mark.parametrize("images", ["val2017", "images/val2017"])
def test_coco(tmp_path: Path, images: str) -> None:
    dataset = CocoCaptions(write_coco(tmp_path, *coco_files(), images))
    assert len(dataset) == 3
    first, pixel, empty = dataset
    assert (first.id, first.prompt, first.caption) == ("7", None, "Two puppies and a teddy bear in a café.")
    dog, teddy = first.regions  # the bear's mask has no pixel
    assert (dog.name, teddy.name) == ("dog", "teddy bear")
    assert [first.caption[a:b] for a, b in dog.spans] == ["puppies"]
    assert [first.caption[a:b] for a, b in teddy.spans] == ["teddy bear"]
    expected = square(6, 10)
    expected[:, 9] = True
    assert np.array_equal(dog.mask, expected), "instance and crowd together"
    assert {"dog", "dogs", "puppy", "puppies"} <= set(dog.terms)
    assert {"teddy bear", "teddy bears", "stuffed animal"} <= set(pixel.compounds), "of all categories, also elsewhere"
    assert pixel.image.shape == (1, 1, 3)
    assert pixel.regions[0].mask.tolist() == [[True]]
    assert (empty.id, empty.regions) == ("9", ())


@needs_extra
def test_coco_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"CocoCaptions: annotations must be a file that exists, got .*captions_val2017"
    ):
        CocoCaptions(tmp_path)
    folder = write_coco(tmp_path / "a", *coco_files())
    (folder / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"instances_val2017\.json"):
        CocoCaptions(folder)
    folder = write_coco(tmp_path / "b", *coco_files(), images="photos")
    with pytest.raises(FileNotFoundError, match="CocoCaptions: folder must hold val2017 or images/val2017, got"):
        CocoCaptions(folder)
    folder = write_coco(tmp_path / "c", *coco_files())
    (folder / "val2017" / "000000000008.jpg").unlink()
    dataset = CocoCaptions(folder)
    assert dataset[0].id == "7"
    with pytest.raises(FileNotFoundError, match=r"000000000008\.jpg"):
        dataset[1]


@needs_extra
def test_coco_broken_files_are_named(tmp_path: Path) -> None:
    captions, instances = coco_files()
    with pytest.raises(ValueError, match=r"CocoCaptions: annotations must be JSON, got '.*captions_val2017.json'"):
        CocoCaptions(write_coco(tmp_path / "a", '{"annotations": [', instances))
    with pytest.raises(
        ValueError, match=r"^CocoCaptions: content must be an object with 'annotations', got {} in '.*captions_"
    ):
        CocoCaptions(write_coco(tmp_path / "b", {}, instances))
    with pytest.raises(
        ValueError, match=r"^CocoCaptions: content must be an object with 'categories', got .*instances_val2017"
    ):
        CocoCaptions(write_coco(tmp_path / "c", captions, {"annotations": 3}))
    with pytest.raises(ValueError, match=r"^CocoCaptions: annotations must be JSON, got '.*captions_val2017.json'"):
        CocoCaptions(write_coco(tmp_path / "g", "[" * 100_000, instances))
    folder = write_coco(tmp_path / "d", captions, instances)
    (folder / "val2017" / "000000000007.jpg").write_bytes(b"\xff\xd8\xff no picture")
    with pytest.raises(ImageError, match=r"000000000007\.jpg"):
        CocoCaptions(folder)[0]
    instances["annotations"][1]["segmentation"]["counts"] = [3]
    with pytest.raises(
        ValueError, match=r"^CocoCaptions: annotations\[1\].segmentation must be .* run lengths of 3 pixels"
    ):
        CocoCaptions(write_coco(tmp_path / "e", captions, instances))[0]


@needs_extra
@pytest.mark.parametrize(
    ("kind", "place", "value", "message"),
    [
        ("captions", ("annotations", 0, "caption"), 3, r"annotations\[0\].caption must be text, got 3"),
        ("captions", ("annotations", 0, "image_id"), None, r"annotations\[0\].image_id must be an integer, got None"),
        ("captions", ("annotations", 0), None, r"annotations\[0\] must be an object with 'caption', got None"),
        ("instances", ("annotations", 0, "category_id"), 555, r"annotations\[0\].category_id must be the id of a cat"),
        ("instances", ("annotations", 0, "category_id"), [1], r"annotations\[0\].category_id must be an integer, got"),
        ("instances", ("annotations", 0, "image_id"), 7.0, r"annotations\[0\].image_id must be an integer, got 7.0"),
        ("instances", ("annotations", 0), {"image_id": 7, "category_id": 18}, r"\[0\] must be an .* 'segmentation'"),
        ("instances", ("categories", 1, "id"), 18, r"categories\[1\].id must be the id of one entry only, got 18"),
        ("instances", ("categories", 1, "name"), None, r"categories\[1\].name must be text, got None"),
        ("instances", ("images", 1, "id"), 7, r"images\[1\].id must be the id of one entry only, got 7"),
        ("instances", ("images", 1, "id"), "7", r"images\[1\].id must be the id of one entry only, got '7'"),
        ("instances", ("images", 1, "file_name"), "../x.jpg", r"images\[1\].file_name must be the path of a file in '"),
        ("instances", ("images", 1, "file_name"), "/etc/x", r"images\[1\].file_name must be the path of a file in '"),
        ("instances", ("images", 1, "file_name"), "", r"images\[1\].file_name must be the path of a file in '"),
        ("instances", ("images", 1, "file_name"), "a\0b", r"images\[1\].file_name must be the path of a file in '"),
        ("instances", ("images", 1, "height"), "6", r"images\[1\].height must be an integer from 1, got '6'"),
        ("instances", ("images",), [], r"images must be images of which one at least has a caption .*got none of 0"),
        (
            "captions",
            ("annotations",),
            [],
            r"images must be images of which one at least has a caption .*got none of 4",
        ),
    ],
)
def test_coco_broken_entries_are_named(
    tmp_path: Path, kind: str, place: tuple[Any, ...], value: Any, message: str
) -> None:
    files = dict(zip(("captions", "instances"), coco_files(), strict=True))
    part: Any = files[kind]
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    file = "instances" if message.startswith("images must be") else kind
    with pytest.raises(ValueError, match=rf"^CocoCaptions: .*{message}.* in '.*{file}_val2017.json'$"):
        CocoCaptions(write_coco(tmp_path, *files.values()))


@needs_extra
@pytest.mark.parametrize(
    ("size", "orientation", "message"),
    [
        ((12, 20), 1, r"an image of \(6, 10\) \(height, width\), got '.*0007.jpg' of \(12, 20\) in"),
        ((6, 10), 6, r"got '.*0007.jpg' of \(10, 6\), turned by its EXIF orientation in"),
        ((6, 10), 3, "an image that is stored upright, got '.*0007.jpg', turned by its EXIF orientation in"),
        ((10, 6), 6, None),  # drawn on the picture as it is shown
    ],
)
def test_images_of_another_size_or_orientation_are_named(
    tmp_path: Path, size: tuple[int, int], orientation: int, message: str | None
) -> None:
    folder = write_coco(tmp_path, *coco_files())
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(folder / "val2017/000000000007.jpg", exif=exif)
    dataset = CocoCaptions(folder)
    if message is None:
        assert dataset[0].image.shape == (6, 10, 3)
    else:
        with pytest.raises(ValueError, match=rf"^CocoCaptions: images\[0\] must be {message}|{message}"):
            dataset[0]


# ------------------------------------------------------------------------------------------------------------ GranDf


def write_grandf(folder: Path, entries: Any) -> Path:
    path = folder / "annotations" / "train" / "GranDf_HA_GCG_train.json"
    path.parent.mkdir(parents=True)
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries), "utf-8")
    for name, size in (("sa_1.jpg", (6, 10)), ("sa_2.jpg", (1, 1))):
        save_image(folder / "GranDf_HA_images" / "train" / name, *size)
    return folder


def grandf_entries() -> list[dict[str, Any]]:
    half = np.zeros((6, 10), bool)
    half[:, :1] = True
    return [
        {
            "file_name": "sa_1.jpg",
            "caption": '"A woman in red beside old trees near the Öresund."',
            "groundings": {
                "A woman in red": {"token_positives": [0, 14], "rle_masks": [compressed(square(6, 10))]},
                "old trees": {"token_positives": [22, 31], "rle_masks": [compressed(half), compressed(square(6, 10))]},
                "the Öresund": {"token_positives": [37, 48], "rle_masks": [compressed(np.zeros((6, 10), bool))]},
            },
        },
        {"file_name": "sa_2.jpg", "caption": "A dot", "groundings": {}},
    ]


@needs_extra
def test_grandf(tmp_path: Path) -> None:
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
def test_grandf_broken_and_missing_files_are_named(tmp_path: Path) -> None:
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


def write_folder(folder: Path, text: str = "dog, Puppy\n\nbåt\nnothing there", mode: str = "L") -> Path:
    save_image(folder / "photo.v2.jpg", 6, 10)
    labels = square(6, 10).astype(np.uint8)
    labels[0, :] = 3
    image = Image.fromarray(labels)
    (image if mode == "L" else image.convert(mode)).save(folder / "photo.v2.mask.png")
    (folder / "photo.v2.txt").write_text(text, "utf-8")
    (folder / "notes.md").write_text("no image")
    return folder


def test_folder(tmp_path: Path) -> None:
    (sample,) = ImageFolder(write_folder(tmp_path))
    assert (sample.id, sample.caption, sample.prompt) == ("photo.v2", "", None)
    dog, boat = sample.regions
    assert dog.terms == ("dog", "puppy")
    assert np.array_equal(dog.mask, square(6, 10))
    assert (boat.name, int(boat.mask.sum())) == ("båt", 10)


def test_folder_broken_and_missing_files_are_named(tmp_path: Path) -> None:
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
def test_by_name(tmp_path: Path) -> None:
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


def test_a_sample_is_checked() -> None:
    with pytest.raises(ValueError, match=r"mask of 'dog' in x must be \[2, 2\] like the image, got \[2, 3\]"):
        Sample("x", np.zeros((2, 2, 3), np.uint8), None, "", (Region("dog", np.ones((2, 3), bool)),))
