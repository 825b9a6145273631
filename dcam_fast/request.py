"""`Request`: what was asked about an image and how to answer; what becomes of raw maps, streamed or not."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import dcam_fast
from dcam_fast.attribution import Attribution, Resources, scores
from dcam_fast.attribution.diffusion_cam import build_targets
from dcam_fast.attribution.engine import CHUNK, ablated_log_probabilities, log_probabilities
from dcam_fast.attribution.engine import Targets as AnswerTargets
from dcam_fast.attribution.methods import describe
from dcam_fast.attribution.refined import refined
from dcam_fast.attribution.words import mean_by_word, owners_of, positions_of
from dcam_fast.config import RefineConfig
from dcam_fast.explanation import Explanation, Target, Token
from dcam_fast.models.adapter import Adapter, Inputs, Trajectory, Word
from dcam_fast.ops.graphs import GraphCache
from dcam_fast.words import find_phrase, is_content

log = logging.getLogger(__name__)

Targets = str | Sequence[str | int]


@dataclass(frozen=True)
class Request:
    """An encoded image and prompt, and how its answer is explained.

    Attributes:
        adapter: of the model that answers.
        inputs: what it is asked.
        method: how raw maps are made, and its ``method_name``.
        config: how they are refined, and its ``profile_name``.
        resources: what passes may use.
        graphs: CUDA graphs of the explainer's refinements.
    """

    adapter: Adapter[Any]
    inputs: Inputs
    method: Attribution
    method_name: str
    config: RefineConfig
    profile_name: str
    resources: Resources
    graphs: GraphCache

    def raw_maps(self, trajectory: Trajectory, words: list[Word]) -> Tensor:
        """Raw maps float32 ``[len(words), h, w]`` over the first view of the image."""
        return self.method.raw_maps(self.adapter, self.inputs, trajectory, words, self.inputs.views[0])

    def refined(self, raw: Tensor, known: Tensor) -> Tensor:
        """Raw maps refined, ``[T, h, w]``, where ``known`` tokens int64 ``[n]`` make up the answer."""
        return refined(raw, self.config, self.inputs, known, self.graphs)

    def token(self, trajectory: Trajectory, position: int) -> Token:
        token = trajectory.tokens[position : position + 1]
        return Token(self.adapter.decode(token), int(token), position, int(trajectory.steps[position]))

    def explanation(
        self, trajectory: Trajectory, chosen: list[Word], raw: Tensor, seconds: dict[str, float], started: float
    ) -> Explanation:
        """The explanation of a finished answer from the raw maps ``[T, h, w]`` of the chosen words. To ``seconds`` is
        added what explaining took since ``started``."""
        adapter, answer = self.adapter, trajectory.tokens[: trajectory.length]
        maps = self.refined(raw, answer)
        measures = self._measures(trajectory, chosen, maps)
        explaining = seconds.get("explain", 0.0) + time.perf_counter() - started
        log.info(
            "%s: method %s, %d tokens, %d maps of %s; generation %.3f s, explanation %.3f s",
            *(adapter.name, self.method_name, trajectory.length, len(maps), "x".join(map(str, maps.shape[1:]))),
            *(seconds["generate"], explaining),
        )
        return Explanation(
            image=self.inputs.image,
            prompt=self.inputs.prompt,
            answer=adapter.decode(answer),
            tokens=tuple(self.token(trajectory, position) for position in range(trajectory.length)),
            targets=tuple(Target(w.text, w.positions, *values) for w, values in zip(chosen, measures, strict=True)),
            maps=maps,
            raw_maps=raw,
            boxes=self.inputs.views[0].boxes,
            provenance={
                "dcam_fast": dcam_fast.__version__,
                "torch": torch.__version__,
                "model": adapter.name,
                "method": self.method_name,
                **describe(self.method),
                "blocks": list(self.method.blocks or adapter.default_blocks),
                "profile": self.profile_name,
                "seconds": {**seconds, "explain": explaining},
            },
        )

    def _measures(self, trajectory: Trajectory, chosen: list[Word], maps: Tensor) -> list[tuple[float, float, float]]:
        """(peak, spread, groundedness) of every chosen word."""
        if not chosen:
            return []
        adapter = self.adapter
        positions, owners = positions_of(chosen).to(adapter.device), owners_of(chosen).to(adapter.device)
        masked = build_targets(trajectory, positions, "remask", adapter.mask_token)
        seen = mean_by_word(log_probabilities(adapter, self.inputs, masked), chosen)
        ablated = mean_by_word(self._without(masked, scores.hot_cells(maps).flatten(1)[owners]), chosen)
        measures = (scores.peak(maps), scores.spread(maps), scores.groundedness(maps, seen, ablated))
        return [(float(p), float(s), float(g)) for p, s, g in torch.stack(measures, 1).tolist()]

    def _without(self, targets: AnswerTargets, hot: Tensor) -> Tensor:
        """Log-probability ``[T]`` of each token without what its hot cells, bool ``[T, N]``, hold at the explained
        block."""
        block = (self.method.blocks or self.adapter.default_blocks)[0]
        cells = self.inputs.views[0].cells.flatten()
        parts = zip(targets.chunks(CHUNK), hot.split(CHUNK), strict=True)
        return torch.cat(
            [ablated_log_probabilities(self.adapter, self.inputs, some, block, cells, of) for some, of in parts]
        )


def check_targets(targets: Targets) -> None:
    """Raises ValueError for what no answer could hold."""
    if isinstance(targets, str) and targets not in ("content", "all"):
        raise ValueError(f"explain: targets must be 'content', 'all' or a list of words and positions, got {targets!r}")


def choose(targets: Targets, words: tuple[Word, ...], trajectory: Trajectory) -> list[Word]:
    """The words to explain. Raises ValueError, naming what there is, for one that the answer does not hold."""
    if targets == "all":
        return list(words)
    if targets == "content":
        return [word for word in words if is_content(word.text)]
    chosen = []
    for target in targets:
        if isinstance(target, int):
            if not 0 <= target < trajectory.length:
                raise ValueError(f"explain: target must be a position from 0 to {trajectory.length - 1}, got {target}")
            holder = next((word for word in words if target in word.positions), None)
            chosen.append(Word(holder.text if holder else f"token {target}", (target,)))
            continue
        positions = find_phrase(target, words)
        if positions is None:
            answer = " ".join(word.text for word in words)
            raise ValueError(f"explain: target must be words of the answer ({answer}), got {target!r}")
        chosen.append(Word(target, positions))
    return chosen
