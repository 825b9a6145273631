"""GranDf (GLaMM, arXiv 2311.03356): human-annotated captions whose phrases have masks."""

from __future__ import annotations

from pathlib import Path

from dcam_fast.evaluation.datasets import masks
from dcam_fast.evaluation.datasets.matching import head_of, plural, spoken_parts
from dcam_fast.evaluation.datasets.sample import BaseDataset, Region, Sample, find_folder, load_annotated
from dcam_fast.json_entries import Entry, read_json

_ANNOTATIONS = "annotations/train/GranDf_HA_GCG_train.json"
_IMAGES = "GranDf_HA_images/train"


class GranDf(BaseDataset):
    """The entries of GranDf, in the order of the file.

    An entry is `{"file_name", "caption", "groundings": {phrase: {"token_positives": [start, end], "rle_masks":
    [...]}}}`. A region is a phrase. In any other text than the reference caption it is found by the phrase or by its
    head noun. Masks are checked when a sample is read.

    Args:
        folder: has `annotations/train/GranDf_HA_GCG_train.json` and `GranDf_HA_images/train/`.

    Raises:
        FileNotFoundError: if a file is missing; the message names it.
        ValueError: if an entry is missing or invalid; the message names the file and the entry.
    """

    def __init__(self, folder: Path) -> None:
        content = read_json(folder / _ANNOTATIONS, "GranDf", "annotations")
        self._entries = content.list()
        self._images = find_folder(folder, (_IMAGES,), "GranDf")
        if not self._entries:
            raise content.error("a list of at least one entry")
        for entry in self._entries:
            entry.field("file_name").file_in(self._images)
            caption = _caption(entry)
            for grounding in entry.field("groundings").fields().values():
                _span(grounding, caption)
                grounding.field("rle_masks").list()

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, index: int) -> Sample:
        entry = self._entries[index]
        path = entry.field("file_name").file_in(self._images)
        image = load_annotated(path, None, entry)
        groundings = entry.field("groundings").fields()
        regions = [_region(_caption(entry), *grounding, image.shape[:2]) for grounding in groundings.items()]
        return Sample(path.stem, image, None, _caption(entry), tuple(region for region in regions if region.mask.any()))


def _caption(entry: Entry) -> str:
    return entry.field("caption").text().strip('"').strip()


def _span(grounding: Entry, caption: str) -> tuple[int, int]:
    """The (start, end) characters of the caption that a grounding refers to."""
    positions = grounding.field("token_positives")
    numbers = [position.integer() for position in positions.list()]
    if len(numbers) != 2 or not 0 <= numbers[0] < numbers[1] <= len(caption):
        raise positions.error(f"start and end in a caption of {len(caption)} characters")
    return numbers[0], numbers[1]


def _region(caption: str, phrase: str, grounding: Entry, size: tuple[int, int]) -> Region:
    head = head_of(phrase)
    terms = tuple(dict.fromkeys((" ".join(spoken_parts(phrase)[0]), head, plural(head))))
    mask = masks.union(grounding.field("rle_masks").list(), size)
    return Region(phrase, mask, (_span(grounding, caption),), terms)
