"""`Explainer`: an image and a prompt in, an answer and a map for each of its words out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import dcam_fast
from dcam_fast import models, ops
from dcam_fast.attribution import Attribution, scores
from dcam_fast.attribution.diffusion_cam import build_targets
from dcam_fast.attribution.engine import CHUNK, ablated_log_probabilities, log_probabilities
from dcam_fast.attribution.engine import Targets as AnswerTargets
from dcam_fast.attribution.methods import METHODS, describe, method_named
from dcam_fast.attribution.words import mean_by_word, owners_of, positions_of
from dcam_fast.config import RefineConfig
from dcam_fast.config import profile as profile_named
from dcam_fast.explanation import Explanation, Target, Token
from dcam_fast.images import ImageSource, load_image
from dcam_fast.models.adapter import Adapter, Inputs, Trajectory, Word
from dcam_fast.words import find_phrase, is_content

Targets = str | Sequence[str | int]


class Explainer:
    """Explains the answers of one model. Holds the model and nothing else: calls do not depend on each other."""

    def __init__(self, adapter: Adapter[Any]) -> None:
        self.adapter = adapter

    @classmethod
    def from_pretrained(cls, model: str = "tiny", *, device: str = "cpu", attention: str | None = None) -> Explainer:
        """An explainer of a model by name; see `dcam_fast.models.load` for the arguments and errors."""
        return cls(models.load(model, device=device, attention=attention))

    def explain(
        self,
        image: ImageSource,
        prompt: str | None = None,
        targets: Targets = "content",
        *,
        method: str | Attribution = "default",
        profile: str | RefineConfig | None = None,
        steps: int | None = None,
        block_length: int | None = None,
    ) -> Explanation:
        """Answers ``prompt`` about ``image`` and explains words of the answer.

        Args:
            image: path, PIL image, array or tensor of any size and mode; see `dcam_fast.images.load_image`.
            prompt: what to ask (None: the model's own, usually a request for a caption).
            targets: ``"content"`` (every content word), ``"all"`` (every word), or a list of words, phrases and token
                positions. A phrase has the mean map of its tokens; ``"ring#2"`` is the second ring.
            method: a name of `dcam_fast.attribution.METHODS` (``"default"``, ``"published"``, ``"grad_cam"``, ...), a
                `Method` or any other `Attribution`.
            profile: how maps are refined: ``"default"``, ``"released"``, ``"paper"`` or a `RefineConfig` (None: the
                method's).
            steps: denoising steps of the generation (None: the model's own).
            block_length: tokens per block of the generation (None: the model's own).

        Raises:
            ValueError: for an image, prompt, target or option that cannot be used, before anything is computed where
                that can be told, else as soon as it can.
        """
        settings = method_named(method)
        config = (
            settings.profile if profile is None else profile_named(profile) if isinstance(profile, str) else profile
        )
        if isinstance(targets, str) and targets not in ("content", "all"):
            raise ValueError(
                f"explain: targets must be 'content', 'all' or a list of words and positions, got {targets!r}"
            )
        pixels = load_image(image)
        started = time.perf_counter()
        inputs = self.adapter.encode(pixels, self.adapter.default_prompt if prompt is None else prompt)
        trajectory = self.adapter.generate(inputs, steps, block_length)
        generated = time.perf_counter()
        words = self.adapter.words(trajectory)
        chosen = _choose(targets, words, trajectory)
        maps, raw, measures = self._attribute(inputs, trajectory, chosen, settings, config)
        seconds = {"generate": generated - started, "explain": time.perf_counter() - generated}
        answer = self.adapter.decode(trajectory.tokens[: trajectory.length])
        return Explanation(
            image=pixels,
            prompt=inputs.prompt,
            answer=answer,
            tokens=tuple(self._tokens(trajectory)),
            targets=tuple(Target(w.text, w.positions, *values) for w, values in zip(chosen, measures, strict=True)),
            maps=maps,
            raw_maps=raw,
            boxes=inputs.views[0].boxes,
            provenance={
                "dcam_fast": dcam_fast.__version__,
                "torch": torch.__version__,
                "model": self.adapter.name,
                "method": _name_of(method),
                **describe(settings),
                "blocks": list(settings.blocks or self.adapter.default_blocks),
                "profile": profile if isinstance(profile, str) else repr(config),
                "seconds": seconds,
            },
        )

    def _attribute(
        self, inputs: Inputs, trajectory: Trajectory, chosen: list[Word], settings: Attribution, config: RefineConfig
    ) -> tuple[Tensor, Tensor, list[tuple[float, float, float]]]:
        """Refined maps, raw maps and (peak, spread, groundedness) of the chosen words."""
        adapter = self.adapter
        raw = settings.raw_maps(adapter, inputs, trajectory, chosen, inputs.views[0])
        repetition = ops.repetition_ratio(trajectory.tokens[: trajectory.length])
        maps = ops.refine(raw, config, repetition=repetition, image_side=inputs.side)
        if not chosen:
            return maps, raw, []
        positions, owners = positions_of(chosen).to(adapter.device), owners_of(chosen).to(adapter.device)
        masked = build_targets(trajectory, positions, "remask", adapter.mask_token)
        seen = mean_by_word(log_probabilities(adapter, inputs, masked), chosen)
        without = self._without(inputs, masked, settings, scores.hot_cells(maps).flatten(1)[owners])
        ablated = mean_by_word(without, chosen)
        measures = (scores.peak(maps), scores.spread(maps), scores.groundedness(maps, seen, ablated))
        return maps, raw, [(float(p), float(s), float(g)) for p, s, g in torch.stack(measures, 1).tolist()]

    def _without(self, inputs: Inputs, targets: AnswerTargets, settings: Attribution, hot: Tensor) -> Tensor:
        """Log-probability ``[T]`` of each token without what its hot cells, bool ``[T, N]``, hold at the explained
        block."""
        block = (settings.blocks or self.adapter.default_blocks)[0]
        cells = inputs.views[0].cells.flatten()
        parts = zip(targets.chunks(CHUNK), hot.split(CHUNK), strict=True)
        return torch.cat(
            [ablated_log_probabilities(self.adapter, inputs, some, block, cells, theirs) for some, theirs in parts]
        )

    def _tokens(self, trajectory: Trajectory) -> list[Token]:
        tokens, steps = trajectory.tokens[: trajectory.length], trajectory.steps.tolist()
        return [Token(self.adapter.decode(tokens[i : i + 1]), int(tokens[i]), i, steps[i]) for i in range(len(tokens))]


def _choose(targets: Targets, words: tuple[Word, ...], trajectory: Trajectory) -> list[Word]:
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


def _name_of(method: str | Attribution) -> str:
    if isinstance(method, str):
        return method
    return next((name for name, known in METHODS.items() if known == method), "custom")
