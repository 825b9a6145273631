"""GranDf, the human-annotated set of grounded captions (GLaMM, arXiv 2311.03356): captions whose phrases have masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from dcam_fast.evaluation.datasets import masks
from dcam_fast.evaluation.datasets.sample import Region, Sample, find_folder, read_json
from dcam_fast.evaluation.matching import head_of, plural, spoken_parts
from dcam_fast.images import load_image

_ANNOTATIONS = "annotations/train/GranDf_HA_GCG_train.json"
_IMAGES = "GranDf_HA_images/train"


class GranDf(Sequence[Sample]):
    """Entries ``{"file_name", "caption", "groundings": {phrase: {"token_positives": [start, end], "rle_masks":
    [...]}}}``. A region is a phrase; outside the reference caption it is found by the phrase or by its head noun."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: ``GranDf``, with ``annotations/train/GranDf_HA_GCG_train.json`` and ``GranDf_HA_images/train/``.

        Raises FileNotFoundError or ValueError naming the file that is missing or unfit, ImportError the extra.
        """
        masks.need_tools()
        self._path = folder / _ANNOTATIONS
        self._entries = read_json(self._path, "grandf")
        self._images = find_folder(folder, (_IMAGES,), "grandf")
        keys = {"file_name", "caption", "groundings"}
        if not isinstance(self._entries, list) or not all(keys <= set(entry) for entry in self._entries):
            raise ValueError(
                f"grandf: annotations must be a list of entries with {', '.join(sorted(keys))}, got '{self._path}'"
            )

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
        caption = entry["caption"].strip('"').strip()
        try:
            regions = [
                self._region(caption, phrase, grounding, image.shape[:2])
                for phrase, grounding in entry["groundings"].items()
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"grandf: groundings of {entry['file_name']} must be sound, got '{self._path}': {error}"
            ) from error
        return Sample(Path(entry["file_name"]).stem, image, None, caption, tuple(r for r in regions if r.mask.any()))

    def _region(self, caption: str, phrase: str, grounding: dict[str, Any], size: tuple[int, int]) -> Region:
        start, end = grounding["token_positives"]
        if not 0 <= start < end <= len(caption):
            raise ValueError(f"token_positives {[start, end]} of {phrase!r} in a caption of {len(caption)} characters")
        head = head_of(phrase)
        terms = tuple(dict.fromkeys((" ".join(spoken_parts(phrase)[0]), head, plural(head))))
        return Region(phrase, masks.union(grounding["rle_masks"], size), ((start, end),), terms)
