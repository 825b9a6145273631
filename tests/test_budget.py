"""Budgets of time: what a level costs, which one is chosen, and what the provenance says. No test measures time."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dcam_fast import BudgetError, Explainer, GradientCAM, scenes
from dcam_fast.attribution import METHODS
from dcam_fast.budget import COSINES, FEW, KEPT, STALE, Budget, CostModel, Level, Window, levels
from dcam_fast.explanation import Explanation
from dcam_fast.interruption import Cancelled, DeadlineExceeded, interruptible
from dcam_fast.models.adapter import Word
from dcam_fast.models.generation import Generation
from dcam_fast.models.tiny.adapter import TinyAdapter

IMAGE = scenes.sample_scene(np.random.default_rng(5), 64, 64, 1).image
WORDS = tuple(Word(text, (position,)) for position, text in enumerate("abcdefgh"))  # 8 tokens: costs are 10 rates
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class FakeSession:
    """A session whose stages take as many seconds as `costs` says, by stage and depth."""

    clock: Clock
    costs: dict[str, float]
    method: Any = field(default_factory=GradientCAM)
    scores: bool = True
    given: Any = None
    targets: str = "all"
    generation: Generation = field(default_factory=Generation)
    adapter: Any = field(
        default_factory=lambda: SimpleNamespace(words=lambda _: WORDS, num_layers=6, default_layers=(2,))
    )
    interrupted: str = ""
    ran: list[str] = field(default_factory=list)

    def _take(self, stage: str) -> None:
        self.ran.append(stage)
        self.clock.now += self.costs[stage]

    def answer(self) -> Any:
        self._take("generate")
        return SimpleNamespace(length=len(WORDS))

    def raw_maps(self, trajectory: Any, words: list[Word]) -> torch.Tensor:
        self._take(f"maps {self.method.depth or 3}")
        if self.method.depth is None and self.interrupted == "maps":
            raise DeadlineExceeded
        return torch.full((len(words), 2, 2), float(self.method.depth or 3))

    def explanation(self, trajectory: Any, chosen: Any, raw: torch.Tensor, *_: Any) -> Explanation:
        self._take("scores" if self.scores else "refine")
        if self.scores and self.interrupted == "scores":
            raise DeadlineExceeded
        image, boxes = np.zeros((4, 4, 3), np.uint8), torch.zeros(2, 2, 4)
        return Explanation(image, "", "", (), (), raw[:0], raw[:0], boxes, {"depth": self.method.depth})


class Calls:
    """Calls with budgets on one machine."""

    def __init__(self, **costs: float) -> None:
        self.clock, self.model = Clock(), CostModel()
        self.costs = {"encode": 1, "generate": 20, "maps 3": 30, "maps 2": 20, "maps 1": 10, "scores": 25, "refine": 1}
        self.costs |= {name.replace("_", " "): seconds for name, seconds in costs.items()}
        self.interrupted = ""
        self.ran: list[str] = []

    def __call__(self, seconds: float, scores: bool = True, given: Any = None) -> dict[str, Any]:
        """The budget in the provenance of one call; `ran` has its stages."""
        session = FakeSession(self.clock, self.costs, scores=scores, given=given, interrupted=self.interrupted)
        found = levels(session.method, scores, session.adapter)
        budget = Budget(seconds * 1e3, found, self.model, self.clock(), self.clock)
        budget.check(session.targets, None if given else session.generation)
        self.clock.now += self.costs["encode"]
        provenance = budget.explain(session).provenance  # type: ignore[arg-type]
        self.ran = session.ran
        return provenance["budget"]  # type: ignore[return-value]


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def measured(calls: Calls) -> Calls:
    """After some calls that had time for everything."""
    for _ in range(KEPT):
        calls(1000)
    return calls


def test_levels_of_a_gradient_cam() -> None:
    adapter = TinyAdapter()
    found = levels(GradientCAM(), True, adapter)
    assert [level.name for level in found] == [
        "exact maps and scores",
        "exact maps",
        "maps of depth 2",
        "maps of depth 1",
    ]
    assert [level.method.depth for level in found] == [None, None, 2, 1]  # type: ignore[attr-defined]
    assert [level.layers for level in found] == [3, 3, 2, 1]
    assert found[0].loses == "nothing"
    assert found[1].loses == "the targets have no scores"
    assert "have a mean cosine of 0.986 with exact ones" in found[3].loses
    assert [level.name for level in levels(GradientCAM(), False, adapter)] == [level.name for level in found[1:]]
    assert levels(GradientCAM(), False, adapter)[0].loses == "nothing"


def test_levels_of_other_methods() -> None:
    adapter = TinyAdapter()
    assert [level.name for level in levels(METHODS["tam"], True, adapter)] == ["maps and scores", "maps"]
    assert [level.name for level in levels(METHODS["tam"], False, adapter)] == ["maps"]
    approximate = levels(GradientCAM(depth=2), True, adapter)
    assert [level.name for level in approximate] == ["maps of depth 2 and scores", "maps of depth 2", "maps of depth 1"]
    assert [level.layers for level in levels(GradientCAM(target_layers=(4,)), True, adapter)] == [1, 1]


def test_the_cosines_are_those_of_the_newest_results() -> None:
    modes = json.loads(max(RESULTS.glob("*-approximations.json")).read_text())["tables"]["words"]
    assert {2: modes["2 layers above"]["cosine"], 1: modes["1 layer above"]["cosine"]} == pytest.approx(
        COSINES, abs=6e-4
    )


def test_a_window_drops_its_first_value_and_keeps_the_last_ones() -> None:
    window = Window()
    assert window.high() is None
    window.add(9.0)
    assert window.high() == pytest.approx(9.0 * 1.05)
    window.add(2.0)
    assert list(window.values) == [2.0]
    for _ in range(KEPT):
        window.add(3.0)
    assert set(window.values) == {3.0}
    assert len(window.values) == KEPT


def test_a_window_is_above_most_values_and_more_so_the_more_they_differ() -> None:
    steady, varied = Window(), Window()
    for index in range(KEPT):
        steady.add(10.0)
        varied.add(5.0 + index / KEPT * 10)
    values = sorted(varied.values)
    assert steady.high() == pytest.approx(10.5)
    assert (varied.high() or 0) > values[-2]


def test_costs_grow_with_the_tokens() -> None:
    costs = CostModel()
    assert costs.high("maps", 4) is None
    costs.add("maps", 4, 6.0)
    assert costs.high("maps", 10) == pytest.approx(12.0 * 1.05)


def test_the_first_call_makes_the_fastest_maps_first(calls: Calls) -> None:
    assert calls(1000)["chosen"] == "exact maps and scores"
    assert calls.ran == ["generate", "maps 1", "maps 3", "scores"]


def test_the_first_call_stops_where_more_may_not_fit(calls: Calls) -> None:
    assert calls(40)["chosen"] == "maps of depth 1"
    assert calls.ran == ["generate", "maps 1", "refine"]


@pytest.mark.parametrize(
    ("seconds", "chosen", "ran"),
    [
        (90, "exact maps and scores", ["generate", "maps 3", "scores"]),
        (60, "exact maps", ["generate", "maps 3", "refine"]),
        (50, "maps of depth 2", ["generate", "maps 2", "refine"]),
        (38, "maps of depth 1", ["generate", "maps 1", "refine"]),
    ],
)
def test_the_most_exact_level_that_fits(calls: Calls, seconds: float, chosen: str, ran: list[str]) -> None:
    for budget in (1000, 60, 40, 50):  # measures every level
        for _ in range(KEPT):
            calls(budget)
    found = calls(seconds)
    assert found["chosen"] == chosen
    assert calls.ran == ran
    assert found["took_ms"] <= found["predicted_ms"] <= found["ms"] == seconds * 1e3


def test_scores_that_the_caller_does_not_want_are_never_made(measured: Calls) -> None:
    found = measured(1000, scores=False)
    assert (found["chosen"], found["loses"]) == ("exact maps", "nothing")
    assert measured.ran == ["generate", "maps 3", "refine"]


def test_a_slow_generation_leaves_less_for_the_maps(measured: Calls) -> None:
    measured.costs["generate"] = 72
    assert measured(90)["chosen"] == "maps of depth 1"


def test_scores_are_dropped_when_the_maps_took_too_long(measured: Calls) -> None:
    measured.costs["maps 3"] = 45
    found = measured(90)
    assert found["chosen"] == "exact maps"
    assert measured.ran == ["generate", "maps 3", "refine"]
    assert found["took_ms"] <= 90e3


def test_scores_end_with_the_budget(measured: Calls) -> None:
    measured.interrupted = "scores"
    found = measured(90)
    assert (found["chosen"], found["loses"]) == ("exact maps", "the targets have no scores")
    assert measured.ran == ["generate", "maps 3", "scores", "refine"]


def test_maps_that_take_too_long_give_way_to_the_fastest(measured: Calls) -> None:
    measured.interrupted = "maps"
    assert measured(150)["chosen"] == "maps of depth 1"
    assert measured.ran == ["generate", "maps 3", "maps 1", "refine"]


def test_the_callers_deadline_is_not_the_budgets(measured: Calls) -> None:
    measured.interrupted = "scores"
    cancel = threading.Event()
    limits = interruptible(cancel=cancel)
    with limits:
        cancel.set()
        with pytest.raises(Cancelled):
            measured(90)


def test_what_nothing_fits_into_is_refused_before_any_work(measured: Calls) -> None:
    for _ in range(KEPT):
        measured(45)
    with pytest.raises(
        BudgetError, match=r"explain: budget_ms must be at least \d+ for maps of depth 1, got 20000"
    ) as caught:
        measured(20)
    needed = float(str(caught.value).split("at least ")[1].split(" for")[0]) / 1e3
    found = measured(needed)
    assert found["took_ms"] <= found["ms"]


def test_a_given_answer_needs_no_time_for_the_generation(measured: Calls) -> None:
    answer = SimpleNamespace(length=len(WORDS))
    measured.costs["generate"] = 0  # `answer` of a session returns the given one
    assert measured(60, given=answer)["chosen"] == "exact maps and scores"
    measured(20, given=answer)


def test_the_first_calls_refuse_nothing(calls: Calls) -> None:
    """What they measured contains torch's first use."""
    for _ in range(FEW):
        calls(5)
    with pytest.raises(BudgetError):
        calls(5)


def test_old_costs_refuse_nothing(measured: Calls) -> None:
    """A machine that was busy is tried again."""
    with pytest.raises(BudgetError):
        measured(5)
    for name in measured.costs:
        measured.costs[name] /= 100
    measured.clock.now += STALE + 1
    found = measured(5)
    assert found["chosen"] == "exact maps and scores"
    assert found["took_ms"] <= 5e3


def test_a_level_measured_under_load_is_tried_again(measured: Calls) -> None:
    """Its own cost is old, and the maps of fewer layers, measured since, bound it."""
    for name in measured.costs:
        measured.costs[name] *= 4
    for _ in range(KEPT):
        measured(1000)
    for name in measured.costs:
        measured.costs[name] /= 4
    for _ in range(KEPT):
        chosen = measured(170)["chosen"]
    assert chosen == "exact maps and scores"


@pytest.mark.parametrize(
    ("budget", "error"),
    [
        ("1", TypeError),
        (True, TypeError),
        (0, ValueError),
        (-5, ValueError),
        (math.nan, ValueError),
        (10**400, ValueError),
    ],
)
def test_budgets_are_checked_before_any_work(budget: Any, error: type[Exception]) -> None:
    explainer = Explainer.from_pretrained("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explainer.adapter, "encode", lambda *_: pytest.fail("encoded"))
        with pytest.raises(error, match=r"^explain: budget_ms must be "):
            explainer.explain(IMAGE, budget_ms=budget)


@pytest.mark.parametrize(
    "arguments", [{"generation": "fast"}, {"scores": 1}, {"profile": 3}, {"prompt": 5}, {"prompt": "\ud800"}]
)
def test_other_options_are_checked_before_the_budget(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises((TypeError, ValueError), match=f"^explain: {name} must be "):
        Explainer.from_pretrained("tiny").explain(IMAGE, budget_ms=100, **arguments)


def test_budgets_of_numpy() -> None:
    explanation = Explainer.from_pretrained("tiny").explain(
        IMAGE, targets=[0], generation=Generation(steps=1), budget_ms=np.float32(60_000)
    )
    assert json.loads(json.dumps(explanation.provenance["budget"]))["ms"] == 60_000


def test_a_budget_with_time_for_everything_changes_nothing_else() -> None:
    explainer, generation = Explainer.from_pretrained("tiny"), Generation(steps=4)
    plain = explainer.explain(IMAGE, targets=[0, 1], generation=generation)
    within = explainer.explain(IMAGE, targets=[0, 1], generation=generation, budget_ms=3.6e6)
    assert torch.equal(plain.maps, within.maps)
    assert within.targets == plain.targets
    assert within.tokens == plain.tokens
    assert within.provenance.keys() - plain.provenance.keys() == {"budget"}
    assert within.provenance["budget"]["chosen"] == "exact maps and scores"  # type: ignore[index]


def test_maps_of_fewer_layers_are_those_of_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer, generation = Explainer.from_pretrained("tiny"), Generation(steps=4)
    fastest: Callable[[Budget, int], tuple[Level, None]] = lambda self, _: (self.levels[-1], None)  # noqa: E731
    monkeypatch.setattr(Budget, "_best", fastest)
    within = explainer.explain(IMAGE, targets=[0, 1], generation=generation, budget_ms=3.6e6)
    depth = explainer.explain(IMAGE, targets=[0, 1], generation=generation, method=GradientCAM(depth=1))
    assert torch.equal(within.raw_maps, depth.raw_maps)
    assert within.provenance["depth"] == 1
    assert [target.groundedness for target in within.targets] == [None, None]
    assert [target.peak for target in within.targets] == [target.peak for target in depth.targets]
