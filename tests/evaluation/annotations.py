"""Annotation files in the exact format of each dataset, shared by these tests."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

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


def write_folder(folder: Path, text: str = "dog, Puppy\n\nbåt\nnothing there", mode: str = "L") -> Path:
    save_image(folder / "photo.v2.jpg", 6, 10)
    labels = square(6, 10).astype(np.uint8)
    labels[0, :] = 3
    image = Image.fromarray(labels)
    (image if mode == "L" else image.convert(mode)).save(folder / "photo.v2.mask.png")
    (folder / "photo.v2.txt").write_text(text, "utf-8")
    (folder / "notes.md").write_text("no image")
    return folder
