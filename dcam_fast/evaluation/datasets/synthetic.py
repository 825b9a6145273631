"""The embedded model's own scenes: every word of the one right caption that names an object has its mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from dcam_fast import scenes
from dcam_fast.evaluation.datasets.sample import Region, Sample

SELECTION_SEED, TEST_SEED = 31_000, 34_000  # settings are chosen on the first set only; the second is only reported


class Scenes(Sequence[Sample]):
    """``count`` scenes drawn one after the other from one seed. The spans of an object are the words of its size,
    color and shape; there are no terms, for in a caption with an error nobody knows which object a word means."""

    def __init__(self, count: int, seed: int, hard: bool = False) -> None:
        if count < 0 or seed < 0:
            raise ValueError(f"Scenes: count and seed must be from 0, got {count} and {seed}")
        self.seed, self.hard = seed, hard
        self._count = count
        self._states: list[dict[str, Any]] = [dict(np.random.default_rng(seed).bit_generator.state)]

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(f"Scenes: index must be 0 to {len(self) - 1}, got {index}")
        rng = np.random.default_rng()
        start = min(index, len(self._states) - 1)
        rng.bit_generator.state = self._states[start]
        for place in range(start, index + 1):
            scene = scenes.sample_scene(rng, hard=self.hard)
            if place + 1 == len(self._states):
                self._states.append(dict(rng.bit_generator.state))
        return self._sample(index, scene)

    def _sample(self, index: int, scene: scenes.Scene) -> Sample:
        dialogue = scenes.caption(scene)
        spans: list[list[tuple[int, int]]] = [[] for _ in scene.objects]
        start = 0
        for word, owner in zip(dialogue.answer, dialogue.owners, strict=True):
            if owner >= 0:
                spans[owner].append((start, start + len(word)))
            start += len(word) + 1
        return Sample(
            id=f"{'hard-' * self.hard}scene-{self.seed}-{index}",
            image=scene.image,
            prompt=dialogue.prompt,
            caption=" ".join(dialogue.answer),
            regions=tuple(
                Region(f"{item.size} {item.color} {item.shape}", item.mask, tuple(of))
                for item, of in zip(scene.objects, spans, strict=True)
            ),
        )
