"""Runs benchmark cases. Each implementation is checked against the reference before it is timed."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dcam_fast.benchmarks.custom import CustomImplementation
from dcam_fast.benchmarks.implementations import (
    Call,
    Implementation,
    UnavailableError,
    available_backends,
    implementations,
)
from dcam_fast.benchmarks.op_cases import (
    BenchmarkCase,
    Inputs,
    all_cases,
    disagreement,
    exact,
    make_inputs,
    make_sparse_inputs,
)
from dcam_fast.benchmarks.results import Entry, Results, describe_machine, now
from dcam_fast.benchmarks.timing import Limits, Statistics, Timer, measure, measure_limits
from dcam_fast.ops._backends import BACKENDS

EXPLANATION = "explanation of a caption, embedded model, 3 objects"


@dataclasses.dataclass(frozen=True)
class BenchmarkPlan:
    """What to run.

    Attributes:
        device: `"cpu"` or a CUDA device.
        quick: only the main cases.
        only: part of the names of the cases to run.
        backends: the backends to time; all that are available, without the reference, if empty.
        custom: implementations to run next to the backends. Only cases of their ops run then.
        op: the only op to run; None: any.
        chosen: cases to run instead of those of the suite.
        total_s: seconds to aim at. Cases that do not fit are cut, baselines first, and named in the notes.
        max_samples: maximum number of timings of a call.
        min_samples: number of timings of a call where they fit into a second.

    >>> [case.name for case in BenchmarkPlan(quick=True, only="guided").cases()]
    ['guided_filter default 27x27 float32 T=1']
    """

    device: str = "cpu"
    quick: bool = False
    only: str = ""
    backends: tuple[str, ...] = ()
    custom: tuple[CustomImplementation, ...] = ()
    op: str | None = None
    chosen: tuple[BenchmarkCase, ...] = ()
    total_s: float = 400.0
    max_samples: int = 300
    min_samples: int = 5

    def cases(self) -> list[BenchmarkCase]:
        """The op and post-processing cases of the plan, the largest last: those are cut first."""
        every = list(self.chosen) or [case for case in all_cases(self.device) if case.quick or not self.quick]
        every.sort(key=lambda case: (not case.quick, case.work[0]))
        ops = self._ops()
        return [case for case in every if self.only in case.name and (not ops or case.op in ops)]

    def explains(self) -> bool:
        """Whether the explanation of a caption is part of the plan."""
        return self.only in EXPLANATION and not self.chosen and not self._ops()

    def _ops(self) -> set[str]:
        return {self.op} if self.op else {item.op for item in self.custom}

    def available_backends(self) -> list[str]:
        """The backends to time.

        Raises:
            ValueError: A requested backend cannot run here.
        """
        available = available_backends(self.device)
        allowed = [*available, "reference"]
        for backend in self.backends:
            if backend not in allowed:
                known = BACKENDS.get(backend)
                problem = "it does not serve this device" if known else "there is no such backend"
                reason = (known and known.unavailable_reason()) or problem
                raise ValueError(f"bench: backend must be one of {', '.join(allowed)} here, got {backend!r}: {reason}")
        return list(self.backends or available)


QUICK_S = 48.0  # of the promised minute; the rest is for calls already started and for printing


def quick_plan(plan: BenchmarkPlan | None = None, elapsed_s: float = 0.0) -> BenchmarkPlan:
    """A plan as `bench --quick` runs it: one minute, also on a busy machine, less `elapsed_s`."""
    return dataclasses.replace(plan or BenchmarkPlan(), quick=True, total_s=QUICK_S - elapsed_s, max_samples=60)


@dataclasses.dataclass(frozen=True)
class Rejection:
    """Why an implementation is not timed.

    Attributes:
        reason: in words.
        wrong: its result is wrong or it failed, rather than that it does not support the case.
    """

    reason: str
    wrong: bool = False


def check_correctness(
    case: BenchmarkCase, device: str, candidates: list[Implementation], ends: float = math.inf
) -> tuple[dict[str, Call], dict[str, Rejection]]:
    """Compares implementations with the reference, on dense and on sparse inputs.

    Args:
        case: what to compute.
        device: where.
        candidates: the implementations. Baselines run last.
        ends: value of `time.monotonic` after which no baseline is started.

    Returns:
        The calls that agree, in the order of the candidates, and why each of the others is not timed.
    """
    inputs = make_inputs(case, device)
    expected = exact(case, inputs)
    sparse = make_sparse_inputs(case, device)
    expected_sparse = None if sparse is None else exact(case, sparse)
    calls: dict[str, Call] = {}
    rejected: dict[str, Rejection] = {}
    for candidate in sorted(candidates, key=lambda candidate: candidate.origin == "baseline"):
        if candidate.origin == "baseline" and time.monotonic() > ends:
            rejected[candidate.name] = Rejection("cut for time")
            continue
        check = _check_custom if candidate.origin == "custom" else _check_once
        try:
            call = candidate.build(case, inputs)
            reason = check(case, call, inputs, expected)
            if reason is None and sparse is not None and expected_sparse is not None:
                reason = check(case, candidate.build(case, sparse), sparse, expected_sparse)
                reason = None if reason is None else f"{reason}, on sparse inputs"
        except (UnavailableError, NotImplementedError) as error:
            rejected[candidate.name] = Rejection(_first_line(error) or "not implemented")
            continue
        except Exception as error:  # from a compiler or a kernel: the reason is reported
            reason = f"{type(error).__name__}: {_first_line(error)}"
        if reason is None:
            calls[candidate.name] = call
        else:
            rejected[candidate.name] = Rejection(reason, wrong=True)
    names = [candidate.name for candidate in candidates]
    return {name: calls[name] for name in names if name in calls}, rejected


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:120]


def _check_once(case: BenchmarkCase, call: Call, inputs: Inputs, expected: Tensor) -> str | None:
    return disagreement(case, call(), expected)


def _check_custom(case: BenchmarkCase, call: Call, inputs: Inputs, expected: Tensor) -> str | None:
    """Calls twice, because buffers may be left from the first call, and restores inputs that it changes."""
    before = [tensor.clone() for tensor in inputs]
    reason = disagreement(case, call(), expected)
    if reason is None and (second := disagreement(case, call(), expected)) is not None:
        reason = f"{second}, on its second call"
    if all(map(torch.equal, inputs, before)):
        return reason
    for tensor, copy in zip(inputs, before, strict=True):
        tensor.copy_(copy)
    return "it changes its inputs"


def run_case(
    case: BenchmarkCase,
    timer: Timer,
    limits: Limits,
    candidates: list[Implementation],
    *,
    budget_s: float,
    max_samples: int,
    min_samples: int = 5,
    ends: float = math.inf,
) -> list[Entry]:
    """Checks and times one case.

    Args:
        case: what to compute.
        timer: measures single samples.
        limits: of the machine, for the share of the limit.
        candidates: the implementations.
        budget_s: seconds for all timings.
        max_samples: maximum number of timings of a call.
        min_samples: number of timings of a call where they fit into a second.
        ends: value of `time.monotonic` after which no baseline is started.

    Returns:
        Entries with cold and warm timings of those that agree, and with a reason for each of the others.
    """
    calls, rejected = check_correctness(case, timer.device, candidates, ends)
    base = Entry(
        case.scope, case.op, case.variant, case.name, case.targets, case.cells, "", timer.device, "",
        floor=limits.floor(case.work),
    )  # fmt: skip
    entries = [
        dataclasses.replace(base, implementation=name, reason=rejection.reason, wrong=rejection.wrong)
        for name, rejection in rejected.items()
    ]
    if calls:
        for cache in ("cold", "warm"):
            timed = measure(
                timer,
                list(calls.values()),
                cold=cache == "cold",
                budget_s=budget_s / 2,
                max_samples=max_samples,
                min_samples=min_samples,
            )
            entries += [_timed(base, name, cache, statistics) for name, statistics in zip(calls, timed, strict=True)]
    return entries


def _timed(base: Entry, implementation: str, cache: str, statistics: Statistics) -> Entry:
    return dataclasses.replace(base, implementation=implementation, cache=cache, **dataclasses.asdict(statistics))


def run_explanation(timer: Timer, *, budget_s: float, max_samples: int) -> list[Entry]:
    """Times generation alone and the whole explanation. Nothing is timed if the answer is wrong."""
    from dcam_fast import Explainer, scenes
    from dcam_fast.attribution.resources import computing

    scene = scenes.sample_scene(np.random.default_rng(12), objects=3)
    explainer = Explainer.from_pretrained("tiny", device=timer.device)
    inputs = explainer.adapter.encode(scene.image, scenes.CAPTION_PROMPT)

    def generate() -> None:
        with computing(explainer.adapter):  # like the explainer
            explainer.adapter.generate(inputs)

    calls: dict[str, Callable[[], object]] = {
        "generation alone": generate,
        "generation and explanation, default": lambda: explainer.explain(scene.image),
        "generation and explanation, published": lambda: explainer.explain(scene.image, method="published"),
    }
    explanation = explainer.explain(scene.image)
    base = Entry("explanation", "explain", "tiny", EXPLANATION, len(explanation.targets), 0, "", timer.device, "warm")
    if explanation.answer != " ".join(scenes.caption(scene).answer).replace(" ,", ","):
        reason = "the answer is wrong"
        return [dataclasses.replace(base, implementation=name, reason=reason, wrong=True) for name in calls]
    timed = measure(timer, list(calls.values()), cold=False, budget_s=budget_s, max_samples=max_samples)
    return [_timed(base, name, "warm", statistics) for name, statistics in zip(calls, timed, strict=True)]


def run(
    plan: BenchmarkPlan,
    progress: Callable[[str], None] = lambda name: None,
    save: Callable[[Results], None] = lambda results: None,
) -> Results:
    """Runs a plan.

    Args:
        plan: what to run.
        progress: gets the name of every case before it runs.
        save: gets the results so far after every case.

    Raises:
        ValueError: A backend cannot run here, or no case matches `plan.only`.
    """
    ends = time.monotonic() + plan.total_s
    backends = plan.available_backends()
    cases = plan.cases()
    machine = describe_machine(plan.device)
    timer = Timer(plan.device)
    progress("the machine's limits")
    limits = measure_limits(timer)
    entries: list[Entry] = []
    notes: list[str] = []
    if not cases and not plan.explains():
        raise ValueError(f"bench: only must be part of a case's name, got {plan.only!r}")
    if plan.explains():
        progress(EXPLANATION)
        entries += run_explanation(timer, budget_s=min(20.0, plan.total_s / 6), max_samples=min(plan.max_samples, 30))
        save(Results(now(), machine, limits, entries, notes))
    for index, case in enumerate(cases):
        left = ends - time.monotonic()
        if left <= 0:
            notes.append(f"cut for time: {case.name}")
            continue
        progress(case.name)
        share = 0.6 * left / (len(cases) - index)  # the rest is for inputs and correctness checks
        compiled = case.quick and not plan.quick  # compilation takes longer than the rest of a case
        candidates = implementations(case, plan.device, backends, compiled=compiled)
        candidates += [found for item in plan.custom for found in item.implementations(case, plan.device)]
        try:
            with torch.no_grad():
                entries += run_case(
                    case,
                    timer,
                    limits,
                    candidates,
                    budget_s=share,
                    max_samples=plan.max_samples,
                    min_samples=plan.min_samples,
                    ends=ends,
                )
        except RuntimeError as error:  # no memory; or CUDA's, which every later call reports again
            notes.append(f"failed: {case.name}: {(str(error).splitlines() or [''])[0][:120]}")
        save(Results(now(), machine, limits, entries, notes))
    return Results(now(), machine, limits, entries, notes)
