"""`Stream`: the maps of an answer while it is being written."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dcam_fast.attribution.by_word import mean_by_word, positions_of
from dcam_fast.attribution.contrasts import ContrastedWord
from dcam_fast.attribution.resources import computing
from dcam_fast.checks import check_switch
from dcam_fast.explained_answer import Token
from dcam_fast.explanation import Explanation
from dcam_fast.interruption import interruptible
from dcam_fast.models.adapter import OPEN, Trajectory, Word
from dcam_fast.session import Session, TargetsLike, check_contrasts, checked_targets, choose

log = logging.getLogger(__name__)

BLANK = "_"


@dataclass(frozen=True, eq=False)
class Step:
    """The tokens that one denoising step wrote, and their maps.

    Attributes:
        index: of the step, from 0.
        text: the answer so far, with `"_"` for each position that is still masked.
        canvas: the text of each position of the answer, None where it is still masked.
        tokens: the `n` tokens that this step committed, without end tokens and padding. A model that takes tokens back
            can commit a position again, with another token.
        maps: float32 `[n, h, w]` in 0..1, refined by what is known so far, on the model's device.
        raw_maps: float32 `[n, h, w]`, before refinement.
        boxes: float32 `[h, w, 4]`, the pixels (x0, y0, x1, y1) of the image that each cell covers.
        seconds: what the step took (`"generate"`) and what its maps took in addition (`"explain"`).
    """

    index: int
    text: str
    canvas: tuple[str | None, ...]
    tokens: tuple[Token, ...]
    maps: Tensor
    raw_maps: Tensor
    boxes: Tensor
    seconds: dict[str, float]

    def __repr__(self) -> str:
        tokens = " ".join(token.text.strip() for token in self.tokens)
        return f"Step(index={self.index}, text={self.text!r}, tokens={tokens!r}, maps={list(self.maps.shape)})"


class Stream(Iterator[Step]):
    """The denoising steps of one answer, each computed on request. Made by `Explainer.stream`.

    Example:
        >>> from dcam_fast import Explainer, Generation, sample_image
        >>> stream = Explainer.from_pretrained("tiny").stream(sample_image(), generation=Generation(steps=4))
        >>> [step.index for step in stream]
        [0, 1, 2, 3]
        >>> len(stream.explanation("all")) > 0
        True
    """

    def __init__(self, session: Session, denoised: Iterator[Trajectory], limits: interruptible) -> None:
        self._session, self._limits = session, limits
        self._raw: dict[tuple[int, int], Tensor] = {}  # by position and the step that wrote it
        self._seconds = {"generate": 0.0, "explain": 0.0}
        self._finished: Trajectory | None = None
        self._steps = self._run(denoised)

    def __next__(self) -> Step:
        return next(self._steps)

    def close(self) -> None:
        """Stops the generation. There are no further steps and no explanation."""
        self._steps.close()

    def explanation(self, targets: TargetsLike = "content", *, scores: bool = True) -> Explanation:
        """The explanation that `Explainer.explain` gives with the state `"committed"`, from the maps of the steps.

        Args:
            targets: as in `Explainer.explain`.
            scores: as in `Explainer.explain`.

        Raises:
            RuntimeError: before the last step, and after `close`.
            ValueError: for a target that the answer does not contain.
            TypeError: for an argument of the wrong type.
            DeadlineExceeded, Cancelled: as in `Explainer.stream`.
        """
        if self._finished is None:
            raise RuntimeError("Stream.explanation: stream must be at its end, got a stream with steps left or closed")
        requested = checked_targets(targets, "Stream.explanation")
        check_switch("Stream.explanation", "scores", scores)
        started = time.perf_counter()
        with self._limits, computing(self._session.adapter, self._session.resources):
            check_contrasts(requested, self._session.adapter, self._session.method, "Stream.explanation")
            chosen = choose(requested, self._session.adapter, self._finished, "Stream.explanation")
            view = self._session.inputs.views[0]
            tokens = [view.boxes.new_zeros(0, *view.cells.shape)]
            steps = self._finished.known_steps("committed").tolist()
            tokens += [self._raw[position, steps[position]][None] for position in positions_of(chosen).tolist()]
            raw = mean_by_word(torch.cat(tokens), chosen)
            contrasts = {index: word for index, word in enumerate(chosen) if isinstance(word, ContrastedWord)}
            if contrasts:  # whose maps no step has made
                raw[list(contrasts)] = self._session.raw_maps(self._finished, list(contrasts.values()))
            session = replace(self._session, scores=scores)
            return session.explanation(self._finished, chosen, raw, self._seconds, started)

    def _run(self, denoised: Iterator[Trajectory]) -> Generator[Step, None, None]:
        trajectory = None
        try:
            for index in itertools.count():
                started = time.perf_counter()
                # never around a yield, where modes and threads must be the caller's
                with self._limits, computing(self._session.adapter, self._session.resources):
                    following = next(denoised, None)
                    if following is None:
                        break
                    trajectory = following
                    step = self._explain(index, trajectory, time.perf_counter() - started)
                yield step
            self._finished = trajectory
        finally:
            if isinstance(denoised, Generator):  # also where an error keeps this frame alive
                denoised.close()

    def _explain(self, index: int, trajectory: Trajectory, generating: float) -> Step:
        started = time.perf_counter()
        session = self._session
        steps = trajectory.known_steps("committed")[: trajectory.length].tolist()
        known = [position for position, step in enumerate(steps) if step != OPEN]
        committed = [position for position in known if (position, steps[position]) not in self._raw]
        raw = session.raw_maps(trajectory, [Word("", (position,)) for position in committed])
        self._raw |= {(position, steps[position]): row for position, row in zip(committed, raw, strict=True)}
        maps = session.refined(raw, trajectory.tokens[known])
        seconds = {"generate": generating, "explain": time.perf_counter() - started}
        for name, value in seconds.items():
            self._seconds[name] += value
        log.debug("step %d: %d new tokens, %s", index, len(committed), seconds)
        return Step(
            index=index,
            text=self._text(trajectory, steps),
            canvas=tuple(
                None if step == OPEN else session.token(trajectory, position).text
                for position, step in enumerate(steps)
            ),
            tokens=tuple(session.token(trajectory, position) for position in committed),
            maps=maps,
            raw_maps=raw,
            boxes=session.inputs.views[0].boxes,
            seconds=seconds,
        )

    def _text(self, trajectory: Trajectory, steps: list[int]) -> str:
        parts = []
        for is_known, run in itertools.groupby(range(len(steps)), lambda position: steps[position] != OPEN):
            positions = list(run)
            tokens = trajectory.tokens[positions]
            parts += [self._session.adapter.decode(tokens).strip()] if is_known else [BLANK] * len(positions)
        return " ".join(parts)
