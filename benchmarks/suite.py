"""Runs cases: gate first, then time."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import numpy as np
import torch

from dcam_fast.benchmarks.cases import Case, all_cases, disagreement, exact, make_inputs, make_sparse_inputs
from dcam_fast.benchmarks.implementations import (
    Call,
    Implementation,
    UnavailableError,
    available_backends,
    implementations,
)
from dcam_fast.benchmarks.results import Entry, Results, describe_machine, now
from dcam_fast.benchmarks.timing import Clock, Limits, Statistics, measure, measure_limits
from dcam_fast.ops._backends import BACKENDS


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to run. `total_s` is a goal: what does not fit in is cut, baselines before our own, and named."""

    device: str = "cpu"
    quick: bool = False
    only: str = ""
    backends: tuple[str, ...] = ()
    total_s: float = 400.0
    most: int = 300  # timings of a call
    least: int = 5  # where as many fit into a second

    def cases(self) -> list[Case]:
        """The op and post-processing cases that it asks for."""
        every = all_cases(self.device)
        every.sort(key=lambda case: (not case.quick, case.work[0]))  # what is cut for time is the largest
        return [case for case in every if self.only in case.name and (case.quick or not self.quick)]

    def usable(self) -> list[str]:
        """Raises ValueError for a backend that cannot run here."""
        usable = available_backends(self.device)
        for backend in self.backends:
            if backend not in usable:
                reason = (
                    BACKENDS[backend].unavailable_reason() if backend in BACKENDS else None
                ) or "it does not serve this device"
                raise ValueError(
                    f"bench: backends must be of {', '.join(usable) or 'none'} here, got {backend!r}: {reason}"
                )
        return list(self.backends or usable)


QUICK_S = 48.0  # of the minute that is promised: the rest is for what is begun by then, and for printing


def quick_plan(device: str = "cpu", only: str = "", backends: tuple[str, ...] = (), elapsed_s: float = 0.0) -> Plan:
    """A minute, also on a busy machine; `elapsed_s` of it have passed."""
    return Plan(device, True, only, backends, total_s=QUICK_S - elapsed_s, most=60)


def gate(
    case: Case, device: str, candidates: list[Implementation], ends: float = math.inf
) -> tuple[dict[str, Call], dict[str, str]]:
    """The calls that agree with the reference, also on sparse inputs, in the order of the candidates, and why others
    are refused. Our own are made first; at `ends` (of `time.monotonic`) no other is begun."""
    inputs = make_inputs(case, device)
    expected = exact(case, inputs)
    sparse = make_sparse_inputs(case, device)
    expected_sparse = None if sparse is None else exact(case, sparse)
    calls: dict[str, Call] = {}
    refused: dict[str, str] = {}
    for candidate in sorted(candidates, key=lambda candidate: not candidate.ours):
        if not candidate.ours and time.monotonic() > ends:
            refused[candidate.name] = "cut for time"
            continue
        try:
            call = candidate.build(case, inputs)
            reason = disagreement(case, call(), expected)
            if reason is None and sparse is not None and expected_sparse is not None:
                reason = disagreement(case, candidate.build(case, sparse)(), expected_sparse)
                reason = None if reason is None else f"{reason} on sparse inputs"
        except UnavailableError as error:
            reason = str(error)
        except Exception as error:  # whatever a compiler or a kernel raises is why there is no figure
            lines = str(error).strip().splitlines() or [""]
            reason = f"{type(error).__name__}: {lines[0][:120]}"
        if reason is None:
            calls[candidate.name] = call
        else:
            refused[candidate.name] = reason
    names = [candidate.name for candidate in candidates]
    return {name: calls[name] for name in names if name in calls}, refused


def run_case(
    case: Case,
    clock: Clock,
    limits: Limits,
    candidates: list[Implementation],
    *,
    budget_s: float,
    most: int,
    least: int = 5,
    ends: float = math.inf,
) -> list[Entry]:
    """The entries of one case: cold and warm of those that agree, the reason of those that do not."""
    calls, refused = gate(case, clock.device, candidates, ends)
    base = Entry(
        case.scope, case.op, case.variant, case.name, case.targets, case.cells, "", clock.device, "",
        floor=limits.floor(case.work),
    )  # fmt: skip
    entries = [dataclasses.replace(base, implementation=name, reason=reason) for name, reason in refused.items()]
    if calls:
        for cache in ("cold", "warm"):
            timed = measure(
                clock, list(calls.values()), cold=cache == "cold", budget_s=budget_s / 2, most=most, least=least
            )
            entries += [_timed(base, name, cache, one) for name, one in zip(calls, timed, strict=True)]
    return entries


def _timed(base: Entry, implementation: str, cache: str, statistics: Statistics) -> Entry:
    return dataclasses.replace(base, implementation=implementation, cache=cache, **dataclasses.asdict(statistics))


EXPLANATION = "explanation of a caption, embedded model, 3 objects"


def run_explanation(clock: Clock, *, budget_s: float, most: int) -> list[Entry]:
    """The whole explanation, and the generation that it explains apart; refused where the answer is wrong: the
    ops in it pass the gate of their own cases."""
    from dcam_fast import Explainer, scenes
    from dcam_fast.attribution.threads import threads_of

    scene = scenes.sample_scene(np.random.default_rng(12), objects=3)
    explainer = Explainer.from_pretrained("tiny", device=clock.device)
    inputs = explainer.adapter.encode(scene.image, scenes.CAPTION_PROMPT)

    def generate() -> None:
        with threads_of(explainer.adapter):  # as the explainer does
            explainer.adapter.generate(inputs)

    calls: dict[str, Callable[[], object]] = {
        "generation alone": generate,
        "generation and explanation, default": lambda: explainer.explain(scene.image),
        "generation and explanation, published": lambda: explainer.explain(scene.image, method="published"),
    }
    explanation = explainer.explain(scene.image)
    base = Entry("explanation", "explain", "tiny", EXPLANATION, len(explanation.targets), 0, "", clock.device, "warm")
    if explanation.answer != " ".join(scenes.caption(scene).answer).replace(" ,", ","):
        return [dataclasses.replace(base, implementation=name, reason="the answer is wrong") for name in calls]
    timed = measure(clock, list(calls.values()), cold=False, budget_s=budget_s, most=most)
    return [_timed(base, name, "warm", one) for name, one in zip(calls, timed, strict=True)]


def run(plan: Plan, progress: Callable[[str], None] = lambda name: None) -> Results:
    """Everything that the plan asks for."""
    ends = time.monotonic() + plan.total_s
    backends = plan.usable()
    cases = plan.cases()
    machine = describe_machine(plan.device)
    clock = Clock(plan.device)
    progress("the machine's limits")
    limits = measure_limits(clock)
    entries: list[Entry] = []
    notes: list[str] = []
    explain = plan.only in EXPLANATION
    if not cases and not explain:
        raise ValueError(f"bench: only must be part of a case's name, got {plan.only!r}")
    if explain:
        progress(EXPLANATION)
        entries += run_explanation(clock, budget_s=min(20.0, plan.total_s / 6), most=min(plan.most, 30))
    for index, case in enumerate(cases):
        left = ends - time.monotonic()
        if left <= 0:
            notes.append(f"cut for time: {case.name}")
            continue
        progress(case.name)
        share = 0.6 * left / (len(cases) - index)  # the rest is for making inputs and checking answers
        compiled = case.quick and not plan.quick  # compiling takes longer than all the rest of a case
        with torch.no_grad():
            candidates = implementations(case, plan.device, backends, compiled=compiled)
            entries += run_case(
                case, clock, limits, candidates, budget_s=share, most=plan.most, least=plan.least, ends=ends
            )
    return Results(now(), machine, limits, entries, notes)
