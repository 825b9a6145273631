"""COCO Caption, in the official layout: `annotations/` and a folder of images.

https://cocodataset.org/#format-data
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from dcam_fast.evaluation.datasets import masks
from dcam_fast.evaluation.datasets.matching import find_terms, plural, spoken_parts
from dcam_fast.evaluation.datasets.sample import BaseDataset, Region, Sample, find_folder, load_annotated
from dcam_fast.evaluation.datasets.terms import COCO_SYNONYMS
from dcam_fast.json_entries import Entry, read_json


class CocoCaptions(BaseDataset):
    """The images of COCO Caption that have a caption and an instance, in the order of the file.

    A region is a category, with all its instances and crowds, because a word does not name a single one of them. The
    reference caption is the first of the image. Segmentations and image sizes are checked when a sample is read.

    Args:
        folder: has `annotations/captions_SPLIT.json`, `annotations/instances_SPLIT.json` and the images in `SPLIT/` or
            `images/SPLIT/`.
        split: `"val2017"`, `"train2017"`, ...

    Raises:
        FileNotFoundError: if a file is missing; the message names it.
        ValueError: if an entry is missing or invalid; the message names the file and the entry.
        ImportError: if pycocotools (the extra `eval`) is not installed.
    """

    def __init__(self, folder: Path, split: str = "val2017") -> None:
        masks.import_pycocotools()
        captions, instances = (
            read_json(folder / "annotations" / f"{kind}_{split}.json", "CocoCaptions", "annotations")
            for kind in ("captions", "instances")
        )
        self._images = find_folder(folder, (split, f"images/{split}"), "CocoCaptions")
        self._captions: dict[int | str, str] = {}
        for entry in captions.field("annotations").list():
            caption = " ".join(entry.field("caption").text().split())
            self._captions.setdefault(entry.field("image_id").key(), caption)
        categories = _by_id(instances.field("categories"))
        self._names = {key: entry.field("name").text() for key, entry in categories.items()}
        self._instances: dict[int | str, list[Entry]] = defaultdict(list)
        for entry in instances.field("annotations").list():
            category = entry.field("category_id")
            if category.key() not in self._names:
                raise category.error("the id of a category")
            entry.field("segmentation")
            self._instances[entry.field("image_id").key()].append(entry)
        images = instances.field("images")
        self._entries = []
        for key, entry in _by_id(images).items():
            entry.field("file_name").file_in(self._images)
            _size(entry)
            if key in self._captions and key in self._instances:
                self._entries.append(entry)
        if not self._entries:
            got = f"none of {len(images.list())}; are the image_id of '{captions.path}' ids of these images?"
            raise images.error("images, at least one with a caption and an instance", got)
        terms = (term for name in self._names.values() for term in category_terms(name))
        self._compounds = tuple(term for term in terms if " " in term)

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, index: int) -> Sample:
        entry = self._entries[index]
        key, size = entry.field("id").key(), _size(entry)
        image = load_annotated(entry.field("file_name").file_in(self._images), size, entry)
        by_category: dict[str, list[Entry]] = defaultdict(list)
        for instance in self._instances[key]:
            name = self._names[instance.field("category_id").key()]
            by_category[name].append(instance.field("segmentation"))
        category_masks = {name: masks.union(parts, size) for name, parts in by_category.items()}
        caption = self._captions[key]
        words, offsets = spoken_parts(caption)
        terms = {name: category_terms(name) for name, mask in category_masks.items() if mask.any()}
        spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for region, first, last in find_terms(words, [*terms.values(), self._compounds]):
            if region < len(terms):
                spans[list(terms)[region]].append((offsets[first][0], offsets[last - 1][1]))
        regions = (Region(name, category_masks[name], tuple(spans[name]), names) for name, names in terms.items())
        return Sample(str(key), image, None, caption, tuple(regions), self._compounds)


def _by_id(entries: Entry) -> dict[int | str, Entry]:
    """The entries of a list by id. No two ids may have the same text."""
    by_id: dict[int | str, Entry] = {}
    texts = set()
    for entry in entries.list():
        key = entry.field("id")
        if str(key.key()) in texts:
            raise key.error("the id of one entry only")
        texts.add(str(key.key()))
        by_id[key.key()] = entry
    return by_id


def _size(entry: Entry) -> tuple[int, int]:
    return entry.field("height").integer(1), entry.field("width").integer(1)


def category_terms(name: str) -> tuple[str, ...]:
    """The name of a category and its synonyms, each in the singular and the plural."""
    singular = (name, *COCO_SYNONYMS.get(name, ()))
    return tuple(dict.fromkeys([*singular, *(plural(term) for term in singular)]))
