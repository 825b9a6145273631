"""Random maps: the lower end of every scale."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dcam_fast.config import RAW, RefineConfig
from dcam_fast.models.adapter import Adapter, ImageView, Inputs, Trajectory, Word


@dataclass(frozen=True)
class Random:
    """Uniform noise; the same for the same seed and image.

    Attributes:
        seed: of the noise.
        target_layers, profile: as in `AttributionMethod`; no layer is read.
    """

    seed: int = 0
    target_layers: tuple[int, ...] | None = None
    profile: RefineConfig = RAW

    def raw_maps(
        self, adapter: Adapter[Any], inputs: Inputs, trajectory: Trajectory, words: Sequence[Word], view: ImageView
    ) -> Tensor:
        """See `dcam_fast.attribution.AttributionMethod.raw_maps`."""
        generator = torch.Generator().manual_seed(zlib.crc32(inputs.image.tobytes(), self.seed))
        # one map per answer position, so that a word's map does not depend on which other words are explained
        noise = torch.rand(len(trajectory.tokens), *view.cells.shape, generator=generator)
        first = torch.tensor([word.positions[0] for word in words], dtype=torch.int64)
        return noise[first].to(adapter.device)
