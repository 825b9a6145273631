"""GranDf, the human-annotated set of grounded captions (GLaMM, arXiv 2311.03356): captions whose phrases have masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

from dcam_fast.entries import Entry, read_json
from dcam_fast.evaluation.datasets import masks
from dcam_fast.evaluation.datasets.matching import head_of, plural, spoken_parts
from dcam_fast.evaluation.datasets.sample import Region, Sample, find_folder, load_annotated

_ANNOTATIONS = "annotations/train/GranDf_HA_GCG_train.json"
_IMAGES = "GranDf_HA_images/train"


class GranDf(Sequence[Sample]):
    """Entries ``{"file_name", "caption", "groundings": {phrase: {"token_positives": [start, end], "rle_masks":
    [...]}}}``. A region is a phrase; outside the reference caption it is found by the phrase or by its head noun."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: ``GranDf``, with ``annotations/train/GranDf_HA_GCG_train.json`` and ``GranDf_HA_images/train/``.

        Raises FileNotFoundError or ValueError naming the file and the entry that is missing or unfit. The masks of an
        image are checked when it is asked for.
        """
        content = read_json(folder / _ANNOTATIONS, "grandf", "annotations")
        self._entries = content.list()
        self._images = find_folder(folder, (_IMAGES,), "grandf")
        if not self._entries:
            raise content.error("entries, one at least")
        for entry in self._entries:
            entry.field("file_name").file_in(self._images)
            caption = _caption(entry)
            for grounding in entry.field("groundings").fields().values():
                _span(grounding, caption)
                grounding.field("rle_masks").list()

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
        path = entry.field("file_name").file_in(self._images)
        image = load_annotated(path, None, entry)
        groundings = entry.field("groundings").fields()
        regions = [_region(_caption(entry), *grounding, image.shape[:2]) for grounding in groundings.items()]
        return Sample(path.stem, image, None, _caption(entry), tuple(r for r in regions if r.mask.any()))


def _caption(entry: Entry) -> str:
    return entry.field("caption").text().strip('"').strip()


def _span(grounding: Entry, caption: str) -> tuple[int, int]:
    """The characters of a caption that a grounding is of."""
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
