"""COCO Caption, in the official layout: ``annotations/`` and a folder of images.

https://cocodataset.org/#format-data
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from dcam_fast.evaluation.datasets import masks
from dcam_fast.evaluation.datasets.sample import Region, Sample, find_folder, read_json
from dcam_fast.evaluation.datasets.terms import COCO_SYNONYMS
from dcam_fast.evaluation.matching import find_terms, plural, spoken_parts
from dcam_fast.images import load_image


class CocoCaptions(Sequence[Sample]):
    """The images that have a caption and an instance, in the order of the file. A region is a category: all its
    instances and crowds together, for a word names no single one of them. The caption is an image's first."""

    def __init__(self, folder: Path, split: str = "val2017") -> None:
        """
        Args:
            folder: holds ``annotations/captions_SPLIT.json``, ``annotations/instances_SPLIT.json`` and the images in
                ``SPLIT/`` or ``images/SPLIT/``.
            split: ``"val2017"``, ``"train2017"``, ...

        Raises FileNotFoundError or ValueError naming the file that is missing or unfit, ImportError the extra.
        """
        masks.need_tools()
        paths = [folder / "annotations" / f"{kind}_{split}.json" for kind in ("captions", "instances")]
        captions, instances = (read_json(path, "coco") for path in paths)
        self._images = find_folder(folder, (split, f"images/{split}"), "coco")
        self._captions: dict[int, str] = {}
        self._instances: dict[int, list[dict[str, Any]]] = defaultdict(list)
        self._path = paths[0]
        try:
            for entry in captions["annotations"]:
                self._captions.setdefault(entry["image_id"], " ".join(entry["caption"].split()))
            self._path = paths[1]
            self._names = {entry["id"]: str(entry["name"]) for entry in instances["categories"]}
            for entry in instances["annotations"]:
                self._instances[entry["image_id"]].append(entry)
            self._entries = [
                entry for entry in instances["images"] if entry["id"] in self._captions and self._instances[entry["id"]]
            ]
            every = (term for name in self._names.values() for term in category_terms(name))
            self._compounds = tuple(term for term in every if " " in term)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"coco: annotations must be in COCO's format, got '{self._path}': {error!r}") from error

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        entry = self._entries[index]
        image = load_image(self._images / entry["file_name"])
        by_category: dict[str, list[Any]] = defaultdict(list)
        try:
            for instance in self._instances[entry["id"]]:
                by_category[self._names[instance["category_id"]]].append(instance["segmentation"])
            size = image.shape[:2]
            found = {name: masks.union(parts, size) for name, parts in by_category.items()}
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"coco: instances of image {entry['id']} must be sound, got '{self._path}': {error}"
            ) from error
        caption = self._captions[entry["id"]]
        words, offsets = spoken_parts(caption)
        terms = {name: category_terms(name) for name, mask in found.items() if mask.any()}
        spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for owner, first, last in find_terms(words, [*terms.values(), self._compounds]):
            if owner < len(terms):
                spans[list(terms)[owner]].append((offsets[first][0], offsets[last - 1][1]))
        regions = (Region(name, found[name], tuple(spans[name]), of) for name, of in terms.items())
        return Sample(str(entry["id"]), image, None, caption, tuple(regions), self._compounds)


def category_terms(name: str) -> tuple[str, ...]:
    """What people call a category: its name and its synonyms, each also in the plural."""
    singular = (name, *COCO_SYNONYMS.get(name, ()))
    return tuple(dict.fromkeys([*singular, *(plural(term) for term in singular)]))
