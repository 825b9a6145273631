"""The caller's torch modes: the same maps under any of them, and they are as before afterwards."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dcam_fast import Explainer, Explanation, scenes
from dcam_fast.attribution import METHODS, Answer, GradientCAM
from dcam_fast.evaluation.cases import prepare
from dcam_fast.evaluation.datasets.synthetic import Scenes
from dcam_fast.evaluation.runner import EvaluationConfig, evaluate_sample
from dcam_fast.models.generation import Generation
from dcam_fast.models.tiny.adapter import TinyAdapter
from dcam_fast.testing import check_adapter
from dcam_fast.torch_modes import own_modes

PICTURE = scenes.sample_scene(np.random.default_rng(12), 96, 96, 2).image


class WatchFunctions(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


class WatchOperations(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def all_at_once() -> Iterator[None]:
    with (
        torch.inference_mode(),
        torch.autocast("cpu", torch.float16),
        torch.device("meta"),
        WatchFunctions(),
        WatchOperations(),
        default_dtype(torch.float64),
    ):
        yield


MODES: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "grad switched off": lambda: torch.set_grad_enabled(False),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float16": lambda: default_dtype(torch.float16),
    "meta device": lambda: torch.device("meta"),
    "meta device set": lambda: default_device("meta"),
    "autocast float16": lambda: torch.autocast("cpu", torch.float16),
    "autocast bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic": deterministic,
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True, check_nan=True),
    "function mode": WatchFunctions,
    "dispatch mode": WatchOperations,
    "all at once": all_at_once,
}
every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
some_modes = pytest.mark.parametrize("mode", [MODES[name] for name in ("inference mode", "float64", "all at once")])


def modes_now() -> tuple[object, ...]:
    """What torch says of this thread and process."""
    return (
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_anomaly_enabled(),
    )


def explain(explainer: Explainer, **options: Any) -> Explanation:
    return explainer.explain(PICTURE, targets=[1, 2], generation=Generation(steps=4), **options)


def check_same(got: Explanation, expected: Explanation) -> None:
    assert got.answer == expected.answer
    assert torch.equal(got.maps, expected.maps)
    assert torch.equal(got.raw_maps, expected.raw_maps)
    assert got.targets == expected.targets
    for tensor in (got.maps, got.raw_maps, got.boxes):
        assert not tensor.is_inference()
        assert not tensor.requires_grad


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer.from_pretrained("tiny")


@pytest.fixture(scope="module")
def expected(explainer: Explainer) -> Explanation:
    return explain(explainer)


@every_mode
def test_explanations_do_not_depend_on_modes(
    explainer: Explainer, expected: Explanation, mode: Any, tmp_path: Any
) -> None:
    with mode():
        before = modes_now()
        got = explain(explainer)
        picture = got.overlay(0)
        sheet = got.contact_sheet()
        page = got.to_html()
        loaded = Explanation.load(got.save(tmp_path / "saved"))
        assert modes_now() == before
    check_same(got, expected)
    check_same(loaded, expected)
    assert picture.tobytes() == expected.overlay(0).tobytes()
    assert sheet.tobytes() == expected.contact_sheet().tobytes()
    assert page.count("<img") == expected.to_html().count("<img")


@every_mode
def test_models_loaded_under_modes_work_outside(expected: Explanation, mode: Any) -> None:
    with mode():
        before = modes_now()
        inside = Explainer.from_pretrained("tiny")
        built = Explainer(TinyAdapter())
        assert modes_now() == before
    check_same(explain(inside), expected)
    check_same(explain(built), expected)


@some_modes
@pytest.mark.parametrize("attention", ["prefix", "joint"])
def test_streams_cross_modes(mode: Any, attention: str) -> None:
    """Begun in one mode, continued in another and ended in a third; the caller has his own between the steps."""
    explainer = Explainer.from_pretrained("tiny", attention=attention)
    plain = explainer.stream(PICTURE, generation=Generation(steps=4))
    list(plain)
    with mode():
        stream = explainer.stream(PICTURE, generation=Generation(steps=4))
        next(stream)
        before = modes_now()
        next(stream)
        assert modes_now() == before
    next(stream)
    with torch.inference_mode():
        assert len(list(stream)) == 1
    with mode():
        got = stream.explanation()
    check_same(got, plain.explanation())


@some_modes
def test_modes_are_restored_after_an_error(explainer: Explainer, mode: Any) -> None:
    def objective(logits: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("in the middle")

    with mode():
        before = modes_now()
        with pytest.raises(RuntimeError, match="in the middle"):
            explain(explainer, method=GradientCAM(objective=objective))
        with pytest.raises(RuntimeError, match="in the middle"):
            list(explainer.stream(PICTURE, method=GradientCAM(objective=objective)))
        with pytest.raises(ValueError, match="load: model must be"):
            Explainer.from_pretrained("no-such-folder")
        assert modes_now() == before


@pytest.mark.parametrize("method", METHODS)
def test_every_method(explainer: Explainer, method: str) -> None:
    def run() -> Explanation:
        return explainer.explain(PICTURE, targets=[1], generation=Generation(steps=4), method=method)

    with all_at_once():
        got = run()
    check_same(got, run())


def test_evaluating_and_checking(explainer: Explainer) -> None:
    settings = EvaluationConfig("tiny", "scenes", ("default", "true_mask"), seed=5, steps=12)
    data = Scenes(1, 5)
    with all_at_once():
        got = evaluate_sample(explainer.adapter, data, 0, settings)
        answer, _ = prepare(explainer.adapter, data[0], Generation(steps=12))
        check_adapter(explainer.adapter)
    want = evaluate_sample(explainer.adapter, data, 0, settings)
    assert answer == want["answer"]
    assert {**got, "seconds": 0} == {**want, "seconds": 0}


def test_what_an_adapter_encodes_can_be_differentiated(explainer: Explainer) -> None:
    """Tensors made in inference mode cannot be differentiated. An adapter makes none in any mode of the caller."""
    adapter = explainer.adapter
    with torch.inference_mode():
        inputs = adapter.encode(PICTURE, adapter.default_prompt)
        trajectory = adapter.generate(inputs, Generation(4))
    words = adapter.words(trajectory)[1:2]
    maps = METHODS["default"].raw_maps(Answer(adapter, inputs, trajectory), words)
    assert bool(maps.isfinite().all())


def test_threads_that_overlap_restore_the_default_dtype() -> None:
    """It is one for the whole process: the last thread to leave restores it."""
    entered, left = threading.Event(), threading.Event()

    def other() -> None:
        with own_modes():
            entered.set()
            left.wait()
            recorded.append(torch.get_default_dtype())

    recorded: list[torch.dtype] = []
    thread = threading.Thread(target=other)
    with default_dtype(torch.float64):
        with own_modes():
            thread.start()
            entered.wait()
        assert torch.get_default_dtype() is torch.float32
        left.set()
        thread.join()
        assert torch.get_default_dtype() is torch.float64
    assert recorded == [torch.float32]
