"""LLaVA-CAM (arXiv 2406.06579): activations weighted by their pooled positive gradients, cut at half the maximum; plain
and smoothed over noisy images (Smooth-CAM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcam_fast.attribution.answer_states import State
from dcam_fast.attribution.by_word import mean_by_word, positions_of, word_index
from dcam_fast.attribution.engine import CHUNK, capture
from dcam_fast.attribution.methods.gradient_cam import build_targets
from dcam_fast.config import RAW, RefineConfig
from dcam_fast.models.adapter import Adapter, ImageView, Inputs, Trajectory, Word


@dataclass(frozen=True)
class LlavaCam:
    """The gradient is that of the summed own logits of a word's tokens, or of the whole answer's, as published, which
    gives all words the same map.

    Attributes:
        state, layers, profile: as in `GradientCAM`.
        scope: whose tokens' logits are summed.
        threshold: values under this share of the maximum become 0.
        runs: noisy images that the map is a mean over; 0: the image itself.
        noise: standard deviation of the Gaussian noise on the image, whose values go from 0 to 1.
        seed: of the noise.

    Raises ValueError where one of them cannot be.
    """

    state: State = "final"
    scope: Literal["word", "answer"] = "word"
    target_layers: tuple[int, ...] | None = None
    threshold: float = 0.5
    runs: int = 0
    noise: float = 0.1
    seed: int = 0
    profile: RefineConfig = RAW

    def __post_init__(self) -> None:
        if self.scope not in ("word", "answer"):
            raise ValueError(f"LlavaCam: scope must be 'word' or 'answer', got {self.scope!r}")
        for name in ("threshold", "runs", "noise"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"LlavaCam: {name} must be at least 0, got {getattr(self, name)}")

    def raw_maps(
        self, adapter: Adapter[Any], inputs: Inputs, trajectory: Trajectory, words: Sequence[Word], view: ImageView
    ) -> Tensor:
        """See `dcam_fast.attribution.AttributionMethod.raw_maps`."""
        explained = words
        if self.scope == "answer" and words:
            explained = [Word("", tuple(range(trajectory.length)))]
        if self.runs:
            rng = np.random.default_rng(self.seed)
            images = (_noisy(inputs.image, self.noise, rng) for _ in range(self.runs))
            encoded = (adapter.encode(image, inputs.prompt) for image in images)
            runs = [self._weighted(adapter, one, trajectory, explained, view) for one in encoded]
            maps = torch.stack(runs).mean(0)
        else:
            maps = self._weighted(adapter, inputs, trajectory, explained, view)
        maps = maps / maps.amax(1, keepdim=True).clamp(min=1e-8)
        maps = torch.where(maps < self.threshold, 0, maps)
        return maps.expand(len(words), -1).reshape(-1, *view.cells.shape)

    def _weighted(
        self, adapter: Adapter[Any], inputs: Inputs, trajectory: Trajectory, words: Sequence[Word], view: ImageView
    ) -> Tensor:
        """``max(mean_d A w, 0)`` with ``w = mean_n max(G, 0)``, float32 ``[len(words), N]``; mean over layers."""
        layers = adapter.default_layers if self.target_layers is None else self.target_layers
        cells, owners = view.cells.flatten(), word_index(words).to(adapter.device)
        positions = positions_of(words).to(adapter.device)
        targets = build_targets(trajectory, positions, self.state, adapter.mask_token)
        maps = view.boxes.new_zeros(len(words), len(cells))
        if not words:
            return maps
        chunks = [
            [(c.activations[:, cells].float(), c.gradients[:, cells].float()) for c in captured]
            for captured in (capture(adapter, inputs, chunk, layers, "logit") for chunk in targets.chunks(CHUNK))
        ]
        for pairs in zip(*chunks, strict=True):
            A, G = (torch.cat(parts) for parts in zip(*pairs, strict=True))
            # the gradient of a sum is the sum of the gradients
            summed = G.new_zeros(len(words), *G.shape[1:]).index_add(0, owners, G)
            weights = summed.clamp(min=0).mean(1)
            maps += torch.einsum("wnd,wd->wn", mean_by_word(A, words), weights).clamp(min=0) / G.shape[2]
        return maps / len(layers)


def _noisy(image: NDArray[np.uint8], noise: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    noisy = image + rng.normal(0, 255 * noise, image.shape)
    return noisy.round().clip(0, 255).astype(np.uint8)
