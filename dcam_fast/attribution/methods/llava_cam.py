"""LLaVA-CAM (arXiv 2406.06579): activations weighted by their pooled positive gradients, with values under half the
maximum set to 0, and its Smooth-CAM variant, a mean over noisy images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcam_fast.attribution.answer import Answer
from dcam_fast.attribution.answer_states import State
from dcam_fast.attribution.by_word import mean_by_word, word_index
from dcam_fast.attribution.engine import CHUNK, capture
from dcam_fast.attribution.methods.gradient_cam import build_targets
from dcam_fast.attribution.methods.protocol import Claim
from dcam_fast.config import RAW, RefineConfig
from dcam_fast.models.adapter import Word


@dataclass(frozen=True)
class LlavaCam:
    """Maps from the gradient of summed logits.

    Attributes:
        state: the answer state of the pass (`dcam_fast.attribution.answer_states`).
        scope: `"word"`: the logits of the word's tokens are summed. `"answer"`: those of the whole answer, as in the
            paper, which gives all words the same map.
        target_layers: the layers whose maps are averaged, ascending. None: the adapter's default layers.
        threshold: values under this share of the maximum become 0.
        runs: number of noisy images that the map is averaged over. 0: the image itself.
        noise: standard deviation of the Gaussian noise on image values in 0..1.
        seed: of the noise.
        profile: how the map is refined.

    Raises:
        ValueError: for an unknown scope, or if `threshold`, `runs` or `noise` is negative.
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

    @property
    def claim(self) -> Claim:
        """See `AttributionMethod.claim`."""
        output = f"the sum of the logits of the tokens of the {self.scope}"
        noisy = f", averaged over {self.runs} noisy images" if self.runs else ""
        score = "the activation there, weighted by the mean positive gradient of each channel, 0 below "
        return Claim(output, f"{score}{self.threshold:g} of the maximum{noisy}", self.state)

    def raw_maps(self, answer: Answer, words: Sequence[Word]) -> Tensor:
        """See `AttributionMethod.raw_maps`."""
        explained = words
        if self.scope == "answer" and words:
            explained = [Word("", tuple(range(answer.trajectory.length)))]
        if self.runs:
            rng = np.random.default_rng(self.seed)
            images = (_noisy(answer.inputs.image, self.noise, rng) for _ in range(self.runs))
            noisy = (replace(answer, inputs=answer.adapter.encode(image, answer.inputs.prompt)) for image in images)
            maps = torch.stack([self._weighted(run, explained) for run in noisy]).mean(0)
        else:
            maps = self._weighted(answer, explained)
        maps = maps / maps.amax(1, keepdim=True).clamp(min=1e-8)
        maps = torch.where(maps < self.threshold, 0, maps)
        return maps.expand(len(words), -1).reshape(-1, *answer.view.cells.shape)

    def _weighted(self, answer: Answer, words: Sequence[Word]) -> Tensor:
        """Mean over layers of `max(mean_d A w, 0)` with `w = mean_n max(G, 0)`, float32 `[len(words), N]`."""
        adapter, layers, cells = answer.adapter, answer.layers(self.target_layers), answer.view.cells.flatten()
        targets = build_targets(answer.trajectory, answer.positions(words), self.state, adapter.mask_token)
        maps = answer.zeros(len(words)).flatten(1)
        if not words:
            return maps
        indices = word_index(words).to(adapter.device)
        passes = (capture(adapter, answer.inputs, chunk, layers, "logit") for chunk in targets.chunks(CHUNK))
        chunks = [
            [(layer.activations[:, cells].float(), layer.gradients[:, cells].float()) for layer in captured]
            for captured in passes
        ]
        for pairs in zip(*chunks, strict=True):
            A, G = (torch.cat(parts) for parts in zip(*pairs, strict=True))
            # the gradient of a sum is the sum of the gradients
            summed = G.new_zeros(len(words), *G.shape[1:]).index_add(0, indices, G)
            weights = summed.clamp(min=0).mean(1)
            maps += torch.einsum("wnd,wd->wn", mean_by_word(A, words), weights).clamp(min=0) / G.shape[2]
        return maps / len(layers)


def _noisy(image: NDArray[np.uint8], noise: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    noisy = image + rng.normal(0, 255 * noise, image.shape)
    return noisy.round().clip(0, 255).astype(np.uint8)
