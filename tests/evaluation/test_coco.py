"""COCO Caption: valid files are read, and errors name the file and the entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotations import coco_files, needs_extra, square, write_coco
from PIL import Image

from dcam_fast.evaluation.datasets import CocoCaptions
from dcam_fast.images import ImageError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools


@needs_extra
@pytest.mark.parametrize("images", ["val2017", "images/val2017"])
def test_categories_are_regions(tmp_path: Path, images: str) -> None:
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
def test_errors_name_missing_files(tmp_path: Path) -> None:
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
def test_errors_name_invalid_files(tmp_path: Path) -> None:
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
    (folder / "val2017" / "000000000007.jpg").write_bytes(b"\xff\xd8\xff not an image")
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
        ("instances", ("images",), [], r"images must be images, at least one with a caption .*got none of 0"),
        (
            "captions",
            ("annotations",),
            [],
            r"images must be images, at least one with a caption .*got none of 4",
        ),
    ],
)
def test_errors_name_invalid_entries(
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
def test_errors_name_images_of_another_size_or_orientation(
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
