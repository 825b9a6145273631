"""Synthetic scenes as a dataset: every word of the reference caption that names an object has a mask."""

from __future__ import annotations

from typing import Any

import numpy as np

from dcam_fast import scenes
from dcam_fast.evaluation.datasets.sample import BaseDataset, Region, Sample

SELECTION_SEED = 31_000  # settings are chosen on these scenes
TEST_SEED = 34_000  # results are reported on these, and nothing is chosen on them


class Scenes(BaseDataset):
    """`count` scenes drawn in order from one seed.

    The spans of an object are the words of its size, color and shape. There are no terms: in a caption with an error
    it is unknown which object a word refers to.

    Args:
        count: number of scenes.
        seed: of the random generator.
        hard: draw hard scenes; see `dcam_fast.scenes.sample_scene`.
        objects: in each scene, where there is room. None: drawn, too.

    Raises:
        ValueError: if `count` or `seed` is negative.

    Example:
        >>> sample = Scenes(2, seed=0)[1]
        >>> sample.caption
        'a large yellow star and a large yellow triangle on a plain background'
        >>> [region.name for region in sample.regions]
        ['large yellow star', 'large yellow triangle']
    """

    def __init__(self, count: int, seed: int, hard: bool = False, objects: int | None = None) -> None:
        if count < 0 or seed < 0:
            raise ValueError(f"Scenes: count and seed must be from 0, got {count} and {seed}")
        self.seed, self.hard, self.objects = seed, hard, objects
        self._count = count
        self._states: list[dict[str, Any]] = [dict(np.random.default_rng(seed).bit_generator.state)]

    def __len__(self) -> int:
        return self._count

    def load(self, index: int) -> Sample:
        rng = np.random.default_rng()
        start = min(index, len(self._states) - 1)
        rng.bit_generator.state = self._states[start]
        for number in range(start, index + 1):
            scene = scenes.sample_scene(rng, objects=self.objects, hard=self.hard)
            if number + 1 == len(self._states):
                self._states.append(dict(rng.bit_generator.state))
        return self._sample(index, scene)

    def _sample(self, index: int, scene: scenes.Scene) -> Sample:
        dialogue = scenes.caption(scene)
        spans: list[list[tuple[int, int]]] = [[] for _ in scene.objects]
        start = 0
        for word, object_index in zip(dialogue.answer, dialogue.object_index, strict=True):
            if object_index >= 0:
                spans[object_index].append((start, start + len(word)))
            start += len(word) + 1
        return Sample(
            id=f"{'hard-' * self.hard}scene-{self.seed}-{index}",
            image=scene.image,
            prompt=dialogue.prompt,
            caption=" ".join(dialogue.answer),
            regions=tuple(
                Region(f"{item.size} {item.color} {item.shape}", item.mask, tuple(item_spans))
                for item, item_spans in zip(scene.objects, spans, strict=True)
            ),
        )
