"""Random maps: the lower bound of every metric."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcam_fast.attribution.answer import Answer
from dcam_fast.attribution.methods.protocol import Claim
from dcam_fast.config import RAW, RefineConfig
from dcam_fast.models.adapter import Word


@dataclass(frozen=True)
class Random:
    """Uniform noise, equal for equal seed and image.

    Attributes:
        seed: of the noise.
        target_layers: unused.
        profile: how the map is refined.
    """

    seed: int = 0
    target_layers: tuple[int, ...] | None = None
    profile: RefineConfig = RAW

    @property
    def claim(self) -> Claim:
        """See `AttributionMethod.claim`."""
        return Claim("nothing", "uniform noise, whatever the model does", None)

    def raw_maps(self, answer: Answer, words: Sequence[Word]) -> Tensor:
        """See `AttributionMethod.raw_maps`."""
        generator = torch.Generator().manual_seed(zlib.crc32(answer.inputs.image.tobytes(), self.seed))
        # one map for each answer position: a word's map does not depend on the other words explained
        noise = torch.rand(len(answer.trajectory.tokens), *answer.view.cells.shape, generator=generator)
        first = torch.tensor([word.positions[0] for word in words], dtype=torch.int64)
        return noise[first].to(answer.adapter.device)
