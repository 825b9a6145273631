"""Explaining within a budget of time: what each stage takes here, and which level of exactness fits."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch

from dcam_fast.attribution import AttributionMethod
from dcam_fast.attribution.methods.gradient_cam import GradientCAM
from dcam_fast.explanation import Explanation
from dcam_fast.models.adapter import Adapter, Trajectory, Word
from dcam_fast.session import Session

KEPT: Final = 32  # measurements of a stage that an estimate is made from
FIXED: Final = 2  # what every stage costs in addition, in units: a pass over the image takes about as long as 2 targets
DEPTHS: Final = (2, 1)
# Mean cosine of the maps of a depth with the exact ones: `words` in the newest benchmarks/results/*-approximations.json.
COSINES: Final = {2: 0.995, 1: 0.986}


class BudgetError(ValueError):
    """A budget that even the fastest way to explain does not fit into."""


@dataclass(frozen=True)
class Level:
    """One way to explain, of those that a budget chooses from.

    Attributes:
        method: how raw maps are made.
        scores: whether the maps get their scores.
        name: in the provenance.
        loses: what it lacks compared with the first level, a sentence.
        layers: how many layers are differentiated; the cost of the maps grows with it.
    """

    method: AttributionMethod
    scores: bool
    name: str
    loses: str
    layers: int


def levels(method: AttributionMethod, scores: bool, adapter: Adapter[Any]) -> tuple[Level, ...]:
    """The ways to explain with `method`, the most exact one first: with scores if wanted, without, and then, for a
    `GradientCAM`, with fewer layers differentiated."""
    above, depth = 1, None
    if isinstance(method, GradientCAM):
        above, depth = adapter.num_layers - 1 - (method.target_layers or adapter.default_layers)[-1], method.depth
    layers = above if depth is None else min(depth, above)
    maps = "exact maps" if depth is None else f"maps through {_count(depth)}"
    no_scores = "no scores" if scores else ""
    found = [Level(method, True, f"{maps} and scores", "Nothing.", layers)] if scores else []
    found.append(Level(method, False, maps, "The targets have no scores." if no_scores else "Nothing.", layers))
    for fewer in DEPTHS:
        if isinstance(method, GradientCAM) and fewer < layers:
            loses = (
                f"{'The targets have no scores. ' if scores else ''}{_count(fewer).capitalize()} of {layers} above the "
                f"target layer differentiated: on scenes, the embedded model's maps then have a mean cosine of "
                f"{COSINES[fewer]} with the exact ones."
            )
            found.append(Level(replace(method, depth=fewer), False, f"maps through {_count(fewer)}", loses, fewer))
    return tuple(found)


def _count(layers: int) -> str:
    return "1 layer" if layers == 1 else f"{layers} layers"


@dataclass
class Window:
    """The last measurements of something."""

    values: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    is_first: bool = False

    def add(self, value: float) -> None:
        if self.is_first:  # it held torch's first use of the stage, which takes longer
            self.values.clear()
        self.is_first = not self.values and not self.is_first
        self.values.append(value)

    def high(self) -> float | None:
        """What the next value will hardly exceed: the 95 % quantile, and half of its distance to the median on top."""
        if not self.values:
            return None
        if len(self.values) == 1:
            return 1.1 * self.values[0]
        high = statistics.quantiles(self.values, n=20, method="inclusive")[-1]
        return high + max((high - statistics.median(self.values)) / 2, 0.05 * high)


class CostModel:
    """What the stages of an explanation take on this machine, from their last measurements.

    A stage costs `units + FIXED` times a rate; the units are denoising steps or target tokens. Several threads may use
    one model.
    """

    def __init__(self) -> None:
        self._windows: dict[Hashable, Window] = {}
        self._lock = threading.Lock()

    def add(self, stage: Hashable, units: int, seconds: float) -> None:
        """A measurement of a stage."""
        self.add_value(stage, seconds / (units + FIXED))

    def add_value(self, name: Hashable, value: float) -> None:
        """A measurement of something else than seconds."""
        with self._lock:
            self._windows.setdefault(name, Window()).add(value)

    def high(self, stage: Hashable, units: int) -> float | None:
        """Seconds that a stage will hardly exceed. None: it was never measured."""
        rate = self.high_value(stage)
        return None if rate is None else rate * (units + FIXED)

    def high_value(self, name: Hashable) -> float | None:
        """What the next value will hardly exceed. None: there was no value."""
        with self._lock:
            window = self._windows.get(name)
            return None if window is None else window.high()

    def forget_slowest(self) -> None:
        """Drops the slowest measurement of each stage.

        A refused call measures nothing. Without this, a machine that was busy once would refuse forever.
        """
        with self._lock:
            for window in self._windows.values():
                if window.values:
                    window.values.remove(max(window.values))
