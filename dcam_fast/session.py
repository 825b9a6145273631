"""`Session`: an encoded image and prompt with the settings of its explanation, streamed or not."""

from __future__ import annotations

import logging
import operator
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from dcam_fast._version import __version__
from dcam_fast.attribution import AttributionMethod, Resources, scores
from dcam_fast.attribution.answer import Answer
from dcam_fast.attribution.answer_states import check_state
from dcam_fast.attribution.claims import claims
from dcam_fast.attribution.contrasts import ContrastedWord, contrast_targets, encode_instead, encode_other
from dcam_fast.attribution.methods.gradient_cam import GradientCAM, check_contrastable
from dcam_fast.attribution.methods.shared import describe
from dcam_fast.attribution.refinement import refined
from dcam_fast.config import RefineConfig
from dcam_fast.contrast import Contrast
from dcam_fast.explained_answer import Alternative, Target, Token
from dcam_fast.explanation import Explanation
from dcam_fast.models.adapter import DEFAULT_GENERATION, OPEN, Adapter, Inputs, Trajectory, Word
from dcam_fast.models.generation import Generation
from dcam_fast.models.text import pieces_of, spell
from dcam_fast.words import BROKEN, find_run, is_content, is_sign, positions_in, split_parts

log = logging.getLogger(__name__)

TargetsLike = str | Iterable[str | SupportsIndex | Contrast] | Tensor
CheckedTargets = str | tuple[str | int | Contrast, ...]


@dataclass(frozen=True)
class Session:
    """An encoded image and prompt, and how the answer is explained.

    Attributes:
        adapter: of the model that answers.
        inputs: image and prompt, encoded.
        method: how raw maps are made.
        method_name: its name in the provenance.
        config: how maps are refined.
        profile_name: its name in the provenance.
        resources: what passes may use of the machine.
        targets: the words that get maps.
        generation: how the answer is generated.
        given: the answer, where another engine wrote it. None: the model answers.
        scores: whether targets get the scores that need passes of the model.
    """

    adapter: Adapter[Any]
    inputs: Inputs
    method: AttributionMethod
    method_name: str
    config: RefineConfig
    profile_name: str
    resources: Resources
    targets: CheckedTargets = "content"
    generation: Generation = DEFAULT_GENERATION
    given: Trajectory | None = None
    scores: bool = True

    def answer(self) -> Trajectory:
        """The given answer, or a new one."""
        return self.adapter.generate(self.inputs, self.generation) if self.given is None else self.given

    def explained(self, trajectory: Trajectory, seconds: dict[str, float]) -> Explanation:
        """The explanation of a finished answer.

        Args:
            trajectory: of the answer.
            seconds: what the stages before took.
        """
        started = time.perf_counter()
        chosen = choose(self.targets, self.adapter, trajectory)
        return self.explanation(trajectory, chosen, self.raw_maps(trajectory, chosen), seconds, started)

    def raw_maps(self, trajectory: Trajectory, words: list[Word]) -> Tensor:
        """Raw maps float32 `[len(words), h, w]` over the first view of the image."""
        return self.method.raw_maps(Answer(self.adapter, self.inputs, trajectory), words)

    @property
    def _layers(self) -> tuple[int, ...]:
        return self.method.target_layers or self.adapter.default_layers

    def refined(self, raw: Tensor, known: Tensor) -> Tensor:
        """Refined maps float32 `[T, h, w]`. `known` are the tokens of the answer so far, int64 `[n]`."""
        return refined(raw, self.config, self.inputs, known)

    def token(self, trajectory: Trajectory, position: int) -> Token:
        """The token at an answer position."""
        token = trajectory.tokens[position : position + 1]
        step = OPEN if trajectory.steps is None else int(trajectory.steps[position])
        return Token(self.adapter.decode(token), int(token), position, None if step == OPEN else step)

    def _tokens(self, trajectory: Trajectory) -> tuple[Token, ...]:
        """The tokens of the answer. Of tokens that spell a character together, the last has it as text."""
        tokens = [self.token(trajectory, position) for position in range(trajectory.length)]
        if any(BROKEN in token.text for token in tokens):
            pieces = pieces_of(*spell(self._decode, trajectory.tokens[: trajectory.length].tolist()))
            tokens = [
                replace(token, text=piece) if BROKEN in token.text else token
                for token, piece in zip(tokens, pieces, strict=True)
            ]
        return tuple(tokens)

    def _decode(self, tokens: list[int]) -> str:
        return self.adapter.decode(torch.tensor(tokens, dtype=torch.int64))

    def explanation(
        self,
        trajectory: Trajectory,
        chosen: list[Word],
        raw: Tensor,
        seconds: dict[str, float],
        started: float,
    ) -> Explanation:
        """The explanation of a finished answer.

        Args:
            trajectory: of the answer.
            chosen: `T` words or phrases.
            raw: float32 `[T, h, w]`, their raw maps.
            seconds: what each stage took so far.
            started: `time.perf_counter()` when explaining began. The time since then is added to `seconds`.
        """
        adapter, answer = self.adapter, trajectory.tokens[: trajectory.length]
        maps = self.refined(raw, answer)
        targets = self._targets(Answer(adapter, self.inputs, trajectory), chosen, maps)
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
            tokens=self._tokens(trajectory),
            targets=targets,
            maps=maps,
            raw_maps=raw,
            boxes=self.inputs.views[0].boxes,
            provenance={
                "dcam_fast": __version__,
                "torch": torch.__version__,
                "model": adapter.name,
                "answer": "generated" if self.given is None else "given",
                "method": self.method_name,
                **describe(self.method),
                "layers": list(self._layers),
                "profile": self.profile_name,
                "claims": claims(Answer(adapter, self.inputs, trajectory), self.method, chosen, self.scores),
                "seconds": {**seconds, "explain": explaining},
            },
        )

    def _targets(self, answer: Answer, chosen: list[Word], maps: Tensor) -> tuple[Target, ...]:
        """The chosen words with their scores, or without `scores`, with those of their maps alone."""
        shapes = torch.stack((scores.peak(maps), scores.spread(maps)), 1).tolist()
        targets = [
            Target(word.text, word.positions, peak, spread, instead=getattr(word, "instead", None))
            for word, (peak, spread) in zip(chosen, shapes, strict=True)
        ]
        if not self.scores:
            return tuple(targets)
        found = scores.dependence(answer, chosen, maps, self._layers[0])
        return tuple(
            replace(
                target,
                groundedness=depends.groundedness,
                image_share=depends.image_share,
                prompt_share=depends.prompt_share,
                answer_share=depends.answer_share,
                alternatives=tuple(
                    tuple(Alternative(self._decode([token]), token, probability) for token, probability in position)
                    for position in depends.alternatives
                ),
            )
            for target, depends in zip(targets, found, strict=True)
        )


def checked_targets(targets: TargetsLike, caller: str) -> CheckedTargets:
    """Targets as words and positions, in their order.

    Raises:
        ValueError: naming the caller, for something that is not a target of any answer.
    """
    need = "'content', 'all' or words and positions in an ordered iterable, such as a list or a 1-D array"
    if isinstance(targets, str):
        if targets not in ("content", "all"):
            raise ValueError(f"{caller}: targets must be {need}, got {targets!r}")
        return targets
    if isinstance(targets, np.ndarray | Tensor):
        targets = targets.tolist()
    if not isinstance(targets, Iterable) or isinstance(targets, bytes | bytearray | Mapping | Set):
        raise ValueError(f"{caller}: targets must be {need}, got {targets!r}")
    return tuple(_checked_target(target, caller) for target in targets)


def _checked_target(target: object, caller: str) -> str | int | Contrast:
    if isinstance(target, Contrast):
        return target
    if isinstance(target, str):
        if not split_parts(target):
            raise ValueError(f"{caller}: target must be words or a sign of the answer, got {target!r}")
        return target
    if isinstance(target, np.ndarray | Tensor) and target.ndim == 0:
        target = target.item()
    if isinstance(target, bool | np.bool_) or not isinstance(target, SupportsIndex):
        raise ValueError(f"{caller}: target must be words or a position, a whole number, got {target!r}")
    try:
        position = operator.index(target)
    except TypeError as error:
        raise ValueError(f"{caller}: target must be words or a position, a whole number, got {target!r}") from error
    if position < 0:
        raise ValueError(f"{caller}: target must be a position from 0, got {position}")
    return position


def check_contrasts(targets: CheckedTargets, adapter: Adapter[Any], method: AttributionMethod, caller: str) -> None:
    """Checks that the method can explain the contrasts among some targets, and that the model knows their words.

    Raises:
        ValueError: otherwise.
    """
    contrasts = [target for target in targets if isinstance(target, Contrast)]
    if not contrasts:
        return
    if not isinstance(method, GradientCAM):
        raise ValueError(
            f"{caller}: method must be a GradientCAM or the name of one for a Contrast, got {type(method).__name__}"
        )
    check_contrastable(method.objective)
    for contrast in contrasts:
        encode_other(adapter, contrast.instead)


def check_given(
    targets: CheckedTargets, adapter: Adapter[Any], trajectory: Trajectory, method: AttributionMethod
) -> None:
    """Checks that a given answer has the state of a method and the words of its targets.

    Raises:
        ValueError: otherwise.
    """
    state: Any = getattr(method, "state", "final")
    check_state(trajectory, state, adapter.mask_token)
    for word in choose(targets, adapter, trajectory):
        if isinstance(word, ContrastedWord):
            contrast_targets(trajectory, word, state, adapter.mask_token)


def choose(
    targets: CheckedTargets, adapter: Adapter[Any], trajectory: Trajectory, caller: str = "explain"
) -> list[Word]:
    """The words to explain.

    Raises:
        ValueError: for a target that the answer does not contain; the message lists its words.
    """
    words = adapter.words(trajectory)
    if targets == "all":  # a sign that shares its token with a word has the word's map
        held = {position for word in words if not is_sign(word.text) for position in word.positions}
        return [word for word in words if not is_sign(word.text) or not held.issuperset(word.positions)]
    if targets == "content":
        return [word for word in words if is_content(word.text)]
    chosen = []
    for target in targets:
        if isinstance(target, int):
            if target >= trajectory.length:
                last = trajectory.length - 1
                need = f"a position from 0 to {last}" if last >= 0 else "left out for an empty answer"
                raise ValueError(f"{caller}: target must be {need}, got {target}")
            if int(trajectory.tokens[target]) == adapter.mask_token:
                raise ValueError(f"{caller}: target must be a position with a token, got {target}, which is masked")
            chosen.append(Word(_text_at(target, words, adapter, trajectory), (target,)))
            continue
        run = find_run(target.word if isinstance(target, Contrast) else target, words)
        if run is None:
            answer = " ".join(word.text for word in words)
            raise ValueError(f"{caller}: target must be words of the answer ({answer}), got {str(target)!r}")
        word = Word(_text_of(run, adapter, trajectory), positions_in(run))
        chosen.append(_contrasted(target, word, adapter, trajectory) if isinstance(target, Contrast) else word)
    return chosen


def _contrasted(contrast: Contrast, word: Word, adapter: Adapter[Any], trajectory: Trajectory) -> ContrastedWord:
    tokens = encode_instead(adapter, trajectory, word.positions, contrast.instead)
    if tokens == tuple(trajectory.tokens[list(word.positions)].tolist()):
        raise ValueError(f"Contrast: instead must be other words than {word.text!r}, got {contrast.instead!r}")
    return ContrastedWord(word.text, word.positions, instead=contrast.instead, instead_tokens=tokens)


def _text_of(run: Sequence[Word], adapter: Adapter[Any], trajectory: Trajectory) -> str:
    """Consecutive words as they read in the answer, with the text between them."""
    if len(run) == 1:
        return run[0].text
    tokens = trajectory.tokens[min(run[0].positions) : max(run[-1].positions) + 1]
    text = adapter.decode(tokens)
    start, end = text.find(run[0].text), text.rfind(run[-1].text)
    return text[start : end + len(run[-1].text)] if 0 <= start <= end else " ".join(word.text for word in run)


def _text_at(position: int, words: Sequence[Word], adapter: Adapter[Any], trajectory: Trajectory) -> str:
    """The text of the token at a position, without signs next to it. Part of a character gives the whole character."""
    holders = [word for word in words if position in word.positions]
    spoken = [word for word in holders if not is_sign(word.text)] or holders
    if len(spoken) == 1 and spoken[0].positions == (position,):
        return spoken[0].text
    text = adapter.decode(trajectory.tokens[position : position + 1]).strip()
    if text and BROKEN not in text:
        return text
    return spoken[0].text if spoken else f"token {position}"
