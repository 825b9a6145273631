"""Explaining within a budget of time: what the stages take on this machine, and which level of exactness fits."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor

from dcam_fast.attribution import AttributionMethod
from dcam_fast.attribution.methods.gradient_cam import GradientCAM
from dcam_fast.checks import ABOVE_ZERO, check_number
from dcam_fast.explanation import Explanation
from dcam_fast.interruption import DeadlineExceeded, check_interruption, interruptible
from dcam_fast.models.adapter import Adapter, Trajectory, Word
from dcam_fast.models.generation import Generation
from dcam_fast.session import CheckedTargets, Session, choose

FEW: Final = 3  # calls before one is refused: what the first measure contains torch's first use
STALE: Final = 30.0  # seconds
KEPT: Final = 32  # measurements of a stage that its estimate is made from
FIXED: Final = 2  # targets whose passes take about as long as the pass over the image that all targets share
# Mean cosine of the maps of a depth with the exact ones, from the newest benchmarks/results/*-approximations.json.
COSINES: Final = {2: 0.995, 1: 0.986}


class BudgetError(ValueError):
    """A budget that even the fastest way to explain does not fit into."""


@dataclass(frozen=True)
class Level:
    """A way to explain that a budget may choose.

    Attributes:
        name: in the provenance.
        loses: what it lacks compared with the first level, as a sentence.
        method: how raw maps are made.
        layers: how many layers are differentiated. The cost of the maps grows with it.
        scores: whether the targets get scores.
    """

    name: str
    loses: str
    method: AttributionMethod
    layers: int
    scores: bool


def levels(method: AttributionMethod, scores: bool, adapter: Adapter[Any]) -> tuple[Level, ...]:
    """The ways to explain with `method`, the most exact one first: with scores (if wanted), without them, and for a
    `GradientCAM` with fewer layers differentiated."""
    no_scores = ["the targets have no scores"] if scores else []
    if isinstance(method, GradientCAM):
        above = adapter.num_layers - 1 - (method.target_layers or adapter.default_layers)[-1]
        layers = above if method.depth is None else min(method.depth, above)
        name = "exact maps" if layers == above else f"maps of depth {layers}"
    else:
        above = layers = 1
        name = "maps"
    found = [Level(f"{name} and scores", "nothing", method, layers, True)] if scores else []
    found.append(Level(name, _sentence(no_scores), method, layers, False))
    for depth, cosine in COSINES.items():
        if isinstance(method, GradientCAM) and depth < layers:
            fewer = [
                f"{depth} of the {above} layers above the target layer are differentiated",
                f"on scenes, the embedded model's maps of depth {depth} have a mean cosine of {cosine} with exact ones",
            ]
            lost = _sentence(no_scores + fewer)
            found.append(Level(f"maps of depth {depth}", lost, replace(method, depth=depth), depth, False))
    return tuple(found)


def _sentence(losses: list[str]) -> str:
    return "; ".join(losses) or "nothing"


@dataclass
class Window:
    """The last measurements of something.

    The first one contains torch's first use of a stage, which takes longer, and is dropped when there is a second.
    """

    values: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    added: int = 0

    def add(self, value: float) -> None:
        if self.added == 1:
            self.values.clear()
        self.values.append(value)
        self.added += 1

    def high(self) -> float | None:
        """What the next value will hardly exceed: the 95 % quantile and a margin that grows with the spread."""
        if not self.values:
            return None
        middle = statistics.median(self.values)
        high = middle if len(self.values) == 1 else statistics.quantiles(self.values, n=20, method="inclusive")[-1]
        return 1.05 * high + 0.5 * (high - middle)


class CostModel:
    """What the stages of an explanation take, from their last measurements. Threads may share it.

    A stage takes `units + FIXED` times a rate. The units are target tokens.
    """

    def __init__(self) -> None:
        self.calls = 0  # that were measured
        self.measured_at = -math.inf  # when the last of them ended
        self._windows: dict[Hashable, Window] = {}
        self._tokens: dict[Hashable, deque[int]] = {}
        self._lock = threading.Lock()

    def add(self, stage: Hashable, units: int, seconds: float) -> None:
        """Adds a measurement of a stage."""
        with self._lock:
            self._windows.setdefault(stage, Window()).add(seconds / (units + FIXED))

    def high(self, stage: Hashable, units: int) -> float | None:
        """Seconds that a stage will hardly exceed, or None if it was never measured."""
        with self._lock:
            rate = self._windows[stage].high() if stage in self._windows else None
        return None if rate is None else rate * (units + FIXED)

    def add_tokens(self, kind: Hashable, tokens: int) -> None:
        """Adds the number of target tokens of a request of some kind."""
        with self._lock:
            self._tokens.setdefault(kind, deque(maxlen=KEPT)).append(tokens)

    def most_tokens(self, kind: Hashable) -> int | None:
        """The largest of the last numbers of target tokens, or None if there was no request of this kind."""
        with self._lock:
            return max(self._tokens[kind]) if kind in self._tokens else None

    def end_call(self, now: float) -> None:
        """Counts a call that was measured."""
        with self._lock:
            self.calls, self.measured_at = self.calls + 1, now

    def forget(self) -> None:
        """Drops all measurements of seconds, so that one call is run without them."""
        with self._lock:
            self.calls = FEW - 1
            for window in self._windows.values():
                window.values.clear()


@dataclass(frozen=True)
class Budget:
    """The time that one explanation may take.

    Attributes:
        ms: milliseconds from `started` to the finished explanation.
        levels: the ways to explain, the most exact one first and the fastest one last.
        costs: of the stages, read and updated.
        started: when the call began, by `clock`.
        clock: in seconds.

    Raises:
        TypeError: if `ms` is not a number.
        ValueError: if it is not positive and finite.
    """

    ms: float
    levels: tuple[Level, ...]
    costs: CostModel
    started: float
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        need = "a positive number of milliseconds or None"
        ms = check_number("explain", "budget_ms", self.ms, need, minimum=ABOVE_ZERO)
        object.__setattr__(self, "ms", ms)

    def check(self, targets: CheckedTargets, generation: Generation | None) -> None:
        """Checks that the fastest level will fit, as far as its stages were measured.

        A refused call measures nothing, and a busy machine becomes idle again. So costs that were last measured
        `STALE` seconds ago refuse no call: they are forgotten.

        Args:
            targets: of the request.
            generation: how the answer is generated; None for a given answer.

        Raises:
            BudgetError: if it will not.
        """
        tokens, fastest = self.costs.most_tokens(_kind(targets)), self.levels[-1]
        stages = [self.costs.high("encode", 0)]
        stages += [] if generation is None else [self.costs.high(_stage(generation), 0)]
        stages += [None if tokens is None else self._rest(fastest, tokens)]
        known = [stage for stage in stages if stage is not None]
        needed = math.ceil(sum(known) * 1e3)
        if self.costs.calls < FEW or len(known) < len(stages) or needed <= self.ms:
            return
        if self.clock() - self.costs.measured_at > STALE:
            self.costs.forget()
            return
        raise BudgetError(f"explain: budget_ms must be at least {needed} for {fastest.name}, got {self.ms:g}")

    def explain(self, session: Session) -> Explanation:
        """The most exact explanation that fits, of a session that was prepared since `started`.

        What is left is compared with the costs again after each stage. If no maps were made before, those of the
        fastest level come first, and more exact ones replace them if they fit too.
        """
        self.costs.add("encode", 0, self.clock() - self.started)
        begun = self.clock()
        trajectory = session.answer()
        generated = self.clock() - begun
        if session.given is None:
            self.costs.add(_stage(session.generation), 0, generated)
        started = time.perf_counter()
        seconds = {"generate": generated}
        chosen = choose(session.targets, session.adapter, trajectory)
        tokens = _count(chosen)
        self.costs.add_tokens(_kind(session.targets), tokens)
        level, predicted = self._best(tokens)
        if predicted is None:  # nothing is known about maps
            raw = self._raw_maps(level, session, trajectory, chosen)
            better, predicted = self._best(tokens)
            if better.layers > level.layers:
                raw = self._raw_maps(better, session, trajectory, chosen)
            level = better
        else:
            level, raw = self._maps_in_time(level, session, trajectory, chosen)
        if level.scores and self._left() < self._finish(level, tokens):
            level = self._without_scores(level)
        try:
            with interruptible(max(self._left(), 1e-3) if level.scores else None):
                explanation = self._explanation(level, session, trajectory, chosen, raw, seconds, started)
        except DeadlineExceeded:
            check_interruption()  # raises if it was the caller's deadline
            level = self._without_scores(level)
            explanation = self._explanation(level, session, trajectory, chosen, raw, seconds, started)
        self.costs.end_call(self.clock())
        budget = {
            "ms": self.ms,
            "chosen": level.name,
            "predicted_ms": None if predicted is None else round(predicted * 1e3, 1),
            "took_ms": round(self._used() * 1e3, 1),
            "loses": level.loses,
        }
        return replace(explanation, provenance={**explanation.provenance, "budget": budget})

    def _used(self) -> float:
        return self.clock() - self.started

    def _left(self) -> float:
        return self.ms / 1e3 - self._used()

    def _best(self, tokens: int) -> tuple[Level, float | None]:
        """The first level that fits into what is left, else the last, and the predicted seconds of the whole call."""
        caution = 1 + 0.5 / max(self.costs.calls, 1)  # few calls say little about the next one
        for level in self.levels:
            rest = self._rest(level, tokens)
            if rest is not None and caution * rest <= self._left():
                return level, self._used() + rest
        rest = self._rest(self.levels[-1], tokens)
        return self.levels[-1], None if rest is None else self._used() + rest

    def _rest(self, level: Level, tokens: int) -> float | None:
        """Seconds that a level takes after the generation. None: no maps were measured that bound it."""
        maps = self._maps(level, tokens)
        return None if maps is None else maps + self._finish(level, tokens)

    def _maps(self, level: Level, tokens: int) -> float | None:
        """Seconds for raw maps, at most, or None if none were measured.

        More layers cost at most as many times as much, and fewer no more. So a level has a bound before it is measured,
        and one that was measured under load is tried again when another has become faster.
        """
        seconds = ((known, self.costs.high(_maps_stage(known), tokens)) for known in self.levels)
        bounds = [cost * max(1.0, level.layers / known.layers) for known, cost in seconds if cost is not None]
        return min(bounds, default=None)

    def _finish(self, level: Level, tokens: int) -> float:
        """Seconds for refinement and scores. Scores take at most twice as long as the most exact maps."""
        measured = self.costs.high(("finish", level.scores), tokens)
        if not level.scores:
            return measured or 0.0
        bound = 2 * (self._maps(self.levels[0], tokens) or math.inf)
        return bound if measured is None else min(measured, bound)

    def _without_scores(self, level: Level) -> Level:
        return next(other for other in self.levels if other.layers == level.layers and not other.scores)

    def _explanation(
        self,
        level: Level,
        session: Session,
        trajectory: Trajectory,
        chosen: list[Word],
        raw: Tensor,
        seconds: dict[str, float],
        started: float,
    ) -> Explanation:
        begun = self.clock()
        try:
            decided = replace(session, method=level.method, scores=level.scores)
            return decided.explanation(trajectory, chosen, raw, dict(seconds), started)
        finally:  # scores that were interrupted would have taken longer
            self.costs.add(("finish", level.scores), _count(chosen), self.clock() - begun)

    def _maps_in_time(
        self, level: Level, session: Session, trajectory: Trajectory, chosen: list[Word]
    ) -> tuple[Level, Tensor]:
        """Raw maps of a level. If they take unexpectedly long, they give way to the fastest ones while these still fit,
        provided that the budget has room for both."""
        tokens, fastest = _count(chosen), self.levels[-1]
        room = self._left() - (self._rest(fastest, tokens) or math.inf)
        if level is fastest or room < (self._maps(level, tokens) or math.inf):
            return level, self._raw_maps(level, session, trajectory, chosen)
        try:
            with interruptible(room):
                return level, self._raw_maps(level, session, trajectory, chosen)
        except DeadlineExceeded:
            check_interruption()  # raises if it was the caller's deadline
            return fastest, self._raw_maps(fastest, session, trajectory, chosen)

    def _raw_maps(self, level: Level, session: Session, trajectory: Trajectory, chosen: list[Word]) -> Tensor:
        begun = self.clock()
        try:
            raw = replace(session, method=level.method).raw_maps(trajectory, chosen)
            if raw.is_cuda:
                torch.cuda.synchronize(raw.device)
            return raw
        finally:  # maps that were interrupted would have taken longer
            self.costs.add(_maps_stage(level), _count(chosen), self.clock() - begun)


def _count(words: list[Word]) -> int:
    """Target tokens of some words."""
    return sum(len(word.positions) for word in words)


def _kind(targets: CheckedTargets) -> Hashable:
    """Requests of one kind have similar numbers of target tokens."""
    return targets if isinstance(targets, str) else len(targets)


def _stage(generation: Generation) -> Hashable:
    return "generate", generation.steps, generation.block_length


def _maps_stage(level: Level) -> Hashable:
    return "maps", repr(level.method)
