"""`Stream`: the maps of an answer while it is being written."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dcam_fast.attribution.by_word import mean_by_word, positions_of
from dcam_fast.attribution.resources import using
from dcam_fast.attribution.threads import threads_of
from dcam_fast.explained import Token
from dcam_fast.explanation import Explanation
from dcam_fast.models.adapter import OPEN, Trajectory, Word
from dcam_fast.session import Session, Targets, checked_targets, choose

log = logging.getLogger(__name__)

BLANK = "_"


@dataclass(frozen=True, eq=False)
class Step:
    """What one denoising step wrote, and where the model looked to write it.

    Attributes:
        index: of the step, from 0.
        text: the answer so far, with a "_" for every position that is still open.
        tokens: those that this step committed, n of them; an end token or padding is none. Where a model takes tokens
            back, a position can come again, with what is written there now.
        maps: float32 ``[n, h, w]`` in 0..1, refined by what is known so far, on the model's device.
        raw_maps: float32 ``[n, h, w]``, before refinement.
        boxes: float32 ``[h, w, 4]``, the pixels (x0, y0, x1, y1) of the image that each cell covers.
        seconds: what the step took (``"generate"``), and what its maps took on top (``"explain"``).
    """

    index: int
    text: str
    tokens: tuple[Token, ...]
    maps: Tensor
    raw_maps: Tensor
    boxes: Tensor
    seconds: dict[str, float]


class Stream(Iterator[Step]):
    """The steps of one answer, each computed when it is asked for. Made by `Explainer.stream`."""

    def __init__(self, session: Session, denoised: Iterator[Trajectory]) -> None:
        self._session = session
        self._raw: dict[tuple[int, int], Tensor] = {}  # by position and the step that wrote it
        self._seconds = {"generate": 0.0, "explain": 0.0}
        self._finished: Trajectory | None = None
        self._steps = self._run(denoised)

    def __next__(self) -> Step:
        return next(self._steps)

    def close(self) -> None:
        """Stops the generation; there are no more steps, and no explanation."""
        self._steps.close()

    def explanation(self, targets: Targets = "content") -> Explanation:
        """What `Explainer.explain` gives with the state ``"committed"``, from the maps of the steps.

        Args:
            targets: as there.

        Raises:
            RuntimeError: before the last step, and after a stream that was closed.
            ValueError: for a target that the answer does not hold.
        """
        if self._finished is None:
            raise RuntimeError("Stream.explanation: stream must be at its end, got one before it, or closed")
        wanted = checked_targets(targets, "Stream.explanation")
        started = time.perf_counter()
        with using(self._session.resources), threads_of(self._session.adapter):
            chosen = choose(wanted, self._session.adapter, self._finished, "Stream.explanation")
            view = self._session.inputs.views[0]
            tokens = [view.boxes.new_zeros(0, *view.cells.shape)]
            steps = self._finished.steps.tolist()
            tokens += [self._raw[position, steps[position]][None] for position in positions_of(chosen).tolist()]
            raw = mean_by_word(torch.cat(tokens), chosen)
            return self._session.explanation(self._finished, chosen, raw, self._seconds, started)

    def _run(self, denoised: Iterator[Trajectory]) -> Generator[Step, None, None]:
        trajectory = None
        for index in itertools.count():
            started = time.perf_counter()
            # never around a yield, where the thread is the caller's
            with using(self._session.resources), threads_of(self._session.adapter):
                following = next(denoised, None)
                if following is None:
                    break
                trajectory = following
                step = self._explain(index, trajectory, time.perf_counter() - started)
            yield step
        self._finished = trajectory

    def _explain(self, index: int, trajectory: Trajectory, generating: float) -> Step:
        started = time.perf_counter()
        session = self._session
        steps = trajectory.steps[: trajectory.length].tolist()
        known = [position for position, step in enumerate(steps) if step != OPEN]
        fresh = [position for position in known if (position, steps[position]) not in self._raw]
        raw = session.raw_maps(trajectory, [Word("", (position,)) for position in fresh])
        self._raw |= {(position, steps[position]): of for position, of in zip(fresh, raw, strict=True)}
        maps = session.refined(raw, trajectory.tokens[known])
        seconds = {"generate": generating, "explain": time.perf_counter() - started}
        for name, value in seconds.items():
            self._seconds[name] += value
        log.debug("step %d: %d new tokens, %s", index, len(fresh), seconds)
        return Step(
            index=index,
            text=self._text(trajectory, steps),
            tokens=tuple(session.token(trajectory, position) for position in fresh),
            maps=maps,
            raw_maps=raw,
            boxes=session.inputs.views[0].boxes,
            seconds=seconds,
        )

    def _text(self, trajectory: Trajectory, steps: list[int]) -> str:
        parts = []
        for there, run in itertools.groupby(range(len(steps)), lambda position: steps[position] != OPEN):
            positions = list(run)
            tokens = trajectory.tokens[positions]
            parts += [self._session.adapter.decode(tokens).strip()] if there else [BLANK] * len(positions)
        return " ".join(parts)
