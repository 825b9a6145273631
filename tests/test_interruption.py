"""Timeouts and cancellation: where a call stops, and what it leaves behind."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dcam_fast import Cancelled, DeadlineExceeded, Explainer, Generation, GradientCAM, Interrupted, interruption
from dcam_fast.attribution import engine
from dcam_fast.attribution.threads import run_all, threads_of
from dcam_fast.interruption import check_interruption, interruptible
from dcam_fast.models.adapter import DEFAULT_GENERATION, Hidden, Inputs, Trajectory
from dcam_fast.models.tiny.adapter import TinyAdapter, TinyInputs

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


class CancelsAtStep(TinyAdapter):
    """Sets its event once step `at` is computed, and counts the steps."""

    def __init__(self, at: int, **options: Any) -> None:
        super().__init__(**options)
        self.at, self.steps, self.cancel = at, 0, threading.Event()

    def denoise(self, inputs: TinyInputs, generation: Generation = DEFAULT_GENERATION) -> Iterator[Trajectory]:
        for index, trajectory in enumerate(super().denoise(inputs, generation)):
            self.steps += 1
            if index == self.at:
                self.cancel.set()
            yield trajectory


class CancelsInHead(TinyAdapter):
    """Sets its event at the first call of the LM head, which explaining uses and generation does not."""

    calls = 0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.cancel = threading.Event()

    def logits(self, hidden: Hidden, rows: Tensor, inputs: Inputs) -> Tensor:
        self.calls += 1
        self.cancel.set()
        return super().logits(hidden, rows, inputs)


class Time:
    """A clock that moves only when told."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(interruption, "_now", time)
    return time


def state() -> tuple[Any, ...]:
    return torch.is_grad_enabled(), torch.get_num_threads(), torch.get_default_dtype(), interruption._active.get()


def check_usable(explainer: Explainer, before: tuple[Any, ...]) -> None:
    """After an interruption all is as before, and the explainer answers as another does."""
    assert state() == before
    got = explainer.explain(PICTURE, targets=[0, 1], generation=Generation(4))
    expected = Explainer(TinyAdapter(attention=explainer.adapter.attention)).explain(
        PICTURE, targets=[0, 1], generation=Generation(4)
    )
    assert got.tokens == expected.tokens
    torch.testing.assert_close(got.maps, expected.maps)


def test_generation_stops_after_the_step_that_is_being_computed() -> None:
    adapter, before = CancelsAtStep(3), state()
    with pytest.raises(Cancelled, match="explain: cancelled"):
        Explainer(adapter).explain(PICTURE, cancel=adapter.cancel)
    assert adapter.steps == 4
    check_usable(Explainer(adapter), before)


@pytest.mark.parametrize("attention", ["prefix", "joint"])
@pytest.mark.parametrize("method", ["default", "llava_cam"])
def test_passes_stop(attention: str, method: str) -> None:
    """The backward pass that was begun ends, and no other begins."""
    adapter, before = CancelsInHead(attention=attention), state()
    whole = CancelsInHead(attention=attention)
    Explainer(whole).explain(PICTURE, targets="all", method=method, generation=Generation(4))
    with pytest.raises(Cancelled):
        Explainer(adapter).explain(
            PICTURE, targets="all", method=method, generation=Generation(4), cancel=adapter.cancel
        )
    assert adapter.calls < whole.calls
    check_usable(Explainer(adapter), before)


def test_all_threads_of_a_pass_stop() -> None:
    """Helping threads know of the cancellation, too."""
    cancel, ran = threading.Event(), []

    def task() -> None:
        cancel.set()
        ran.append(threading.get_ident())

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with threads_of(TinyAdapter()), interruptible(cancel=cancel), pytest.raises(Cancelled):
            run_all([task] * 100)
    finally:
        torch.set_num_threads(before)
    assert 1 <= len(ran) <= 4


def test_every_canvas_of_a_model_with_one_stream_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "ROWS", 1)  # one canvas in a batch
    adapter = TinyAdapter(attention="joint")
    cancel, batches = threading.Event(), []

    def objective(logits: Tensor) -> Tensor:
        batches.append(len(logits))
        if len(batches) == 2:
            cancel.set()
        return logits.sum()

    with pytest.raises(Cancelled):
        Explainer(adapter).explain(
            PICTURE, targets=[0, 1, 2, 3], method=GradientCAM(objective=objective), cancel=cancel
        )
    assert len(batches) == 2


def test_a_timeout_counts_from_the_call(time: Time) -> None:
    class Slow(TinyAdapter):
        steps = 0

        def denoise(self, *args: Any, **kwargs: Any) -> Iterator[Trajectory]:
            for trajectory in super().denoise(*args, **kwargs):
                self.steps += 1
                time.seconds += 1
                yield trajectory

    adapter, before = Slow(), state()
    with pytest.raises(DeadlineExceeded, match=r"explain: not finished within the timeout of 3\.5 seconds") as raised:
        Explainer(adapter).explain(PICTURE, timeout=3.5)
    assert isinstance(raised.value, TimeoutError)
    assert isinstance(raised.value, Interrupted)
    assert adapter.steps == 4
    assert Explainer(adapter).explain(PICTURE, timeout=37).tokens
    check_usable(Explainer(adapter), before)


def test_nothing_runs_after_a_cancellation() -> None:
    adapter = CancelsAtStep(99)
    adapter.cancel.set()
    for call in (Explainer(adapter).explain, Explainer(adapter).stream):
        with pytest.raises(Cancelled):
            call("no-such-file.png", cancel=adapter.cancel)
    assert not adapter.steps


def test_a_stream_stops_between_its_steps() -> None:
    adapter, before = CancelsAtStep(99), state()
    stream = Explainer(adapter).stream(PICTURE, cancel=adapter.cancel)
    for step in stream:
        if step.index == 2:
            break
    adapter.cancel.set()
    with pytest.raises(Cancelled, match="stream: cancelled"):
        next(stream)
    assert adapter.steps == 3
    assert list(stream) == []
    with pytest.raises(RuntimeError, match="stream must be at its end"):
        stream.explanation()
    check_usable(Explainer(adapter), before)


def test_a_streams_timeout_includes_what_is_between_its_steps(time: Time) -> None:
    stream = Explainer(TinyAdapter()).stream(PICTURE, generation=Generation(4), timeout=5)
    next(stream)
    time.seconds += 4
    assert len(list(stream)) == 3
    time.seconds += 1
    with pytest.raises(DeadlineExceeded, match="stream: not finished within the timeout of 5 seconds"):
        stream.explanation()


def test_an_interrupted_stream_ends_its_generation() -> None:
    """Also while the error, and so the frame of the stream, is alive."""
    generating = []

    class Watched(TinyAdapter):
        def denoise(self, *args: Any, **kwargs: Any) -> Iterator[Trajectory]:
            generating.append(True)
            try:
                yield from super().denoise(*args, **kwargs)
            finally:
                generating.pop()

    cancel = threading.Event()
    stream = Explainer(Watched()).stream(PICTURE, cancel=cancel)
    next(stream)
    cancel.set()
    with pytest.raises(Cancelled) as raised:
        next(stream)
    gc.collect()
    assert raised.value.__traceback__ is not None
    assert not generating


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"timeout": 0}, ValueError, "timeout must be a positive number of seconds or None, got 0"),
        ({"timeout": float("nan")}, ValueError, "timeout must be a positive number of seconds or None, got nan"),
        ({"timeout": float("inf")}, ValueError, "timeout must be a positive number of seconds or None, got inf"),
        ({"timeout": True}, TypeError, "timeout must be a positive number of seconds or None, got True"),
        ({"timeout": 10**400}, ValueError, "timeout must be a positive number of seconds or None, got 10000"),
        ({"timeout": "1"}, TypeError, "timeout must be a positive number of seconds or None, got '1'"),
        ({"cancel": True}, TypeError, r"cancel must be a threading.Event, have is_set\(\) or be None, got True"),
        ({"cancel": SimpleNamespace(is_set=True)}, TypeError, "cancel must be .* got namespace"),
        ({"cancel": threading.Event}, TypeError, r"cancel must be .* got <class 'threading.Event'>"),
    ],
)
def test_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """They are checked before anything is read: there is no such image."""
    explainer = Explainer(TinyAdapter())
    for call in (explainer.explain, explainer.stream):
        with pytest.raises(error, match=f"{call.__name__}: {message}"):
            call("no-such-file.png", **arguments)


class Broken:
    """A cancellation whose source is gone."""

    def is_set(self) -> bool:
        raise ConnectionError("no connection")


def test_an_error_of_a_cancellation_ends_with_its_call() -> None:
    explainer = Explainer(TinyAdapter())
    for call in (explainer.explain, explainer.stream):
        with pytest.raises(ConnectionError):
            call(PICTURE, cancel=Broken())
    check_interruption()  # asks no cancellation of a call that has ended


def test_timeouts_of_numpy() -> None:
    with interruptible(np.float32(100)), interruptible(np.int64(100)):
        check_interruption()


def test_limits_nest(time: Time) -> None:
    outer, inner = interruptible(timeout=5), interruptible(timeout=50)
    with outer, inner:
        check_interruption()
        time.seconds += 6
        with pytest.raises(DeadlineExceeded):
            check_interruption()
    with inner:
        check_interruption()
    with pytest.raises(DeadlineExceeded), outer:
        pytest.fail("entering is a check")
    check_interruption()
