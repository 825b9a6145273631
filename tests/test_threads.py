"""torch's threads during passes: one for a small model, so that maps are bitwise the same whatever the caller's count;
the caller's count before, between and after them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor

from dcam_fast import Explainer, scenes
from dcam_fast.attribution import GradientCAM
from dcam_fast.attribution.threads import run_all, threads_of, workers
from dcam_fast.models.generation import Generation
from dcam_fast.models.tiny.adapter import TinyAdapter

R = TypeVar("R")
PICTURE = scenes.sample_scene(np.random.default_rng(12), 96, 96, 2).image


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def adapter() -> TinyAdapter:
    return TinyAdapter()


def on_new_thread(function: Callable[[], R]) -> R:
    results: list[R] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def counting(counts: list[int]) -> GradientCAM:
    """A method that notes torch's count as it is evaluated."""

    def objective(logits: Tensor) -> Tensor:
        counts.append(torch.get_num_threads())
        return logits[5]

    return GradientCAM(objective=objective)


def test_maps_are_bitwise_identical_for_any_thread_count(adapter: TinyAdapter) -> None:
    explainer = Explainer(adapter)
    explanations = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        explanations.append(explainer.explain(PICTURE))
    first = explanations[0]
    for other in explanations[1:]:
        assert other.tokens == first.tokens
        assert other.targets == first.targets
        assert torch.equal(other.raw_maps, first.raw_maps)
        assert torch.equal(other.maps, first.maps)


def test_a_small_model_runs_on_one_thread(adapter: TinyAdapter) -> None:
    counts: list[int] = []
    Explainer(adapter).explain(PICTURE, targets=[0], method=counting(counts))
    assert counts == [1]
    assert torch.get_num_threads() == 2
    assert on_new_thread(torch.get_num_threads) == 2


def test_a_large_model_keeps_the_callers_threads(adapter: TinyAdapter) -> None:
    adapter.small = False
    counts: list[int] = []
    Explainer(adapter).explain(PICTURE, targets=[0], method=counting(counts))
    assert counts == [2]


def test_the_count_is_restored_after_an_error(adapter: TinyAdapter) -> None:
    def objective(logits: Tensor) -> Tensor:
        raise RuntimeError("objective")

    with pytest.raises(RuntimeError, match="objective"):
        Explainer(adapter).explain(PICTURE, targets=[0], method=GradientCAM(objective=objective))
    assert torch.get_num_threads() == 2


def test_between_steps_the_count_is_the_callers(adapter: TinyAdapter) -> None:
    counts: list[int] = []
    stream = Explainer(adapter).stream(PICTURE, generation=Generation(steps=2), method=counting(counts))
    for _ in stream:
        assert torch.get_num_threads() == 2
        assert on_new_thread(torch.get_num_threads) == 2
    stream.explanation()
    assert torch.get_num_threads() == 2
    assert set(counts) == {1}


def test_other_threads_keep_their_count(adapter: TinyAdapter) -> None:
    """An existing thread, one that starts during a pass, and one that runs a pass."""
    inside, leave = threading.Event(), threading.Event()

    def hold() -> int:
        torch.set_num_threads(3)
        with threads_of(adapter):
            inside.set()
            leave.wait()
        return torch.get_num_threads()

    restored: list[int] = []
    thread = threading.Thread(target=lambda: restored.append(hold()))
    thread.start()
    inside.wait()
    assert torch.get_num_threads() == 2
    assert on_new_thread(torch.get_num_threads) == 3  # what a thread set last is what later ones begin with
    with threads_of(adapter):
        assert torch.get_num_threads() == 1
        leave.set()
        thread.join()
        assert torch.get_num_threads() == 1
    assert restored == [3]
    assert torch.get_num_threads() == 2


def test_tasks_are_shared_out_in_order(adapter: TinyAdapter) -> None:
    """Every task runs once, under one thread of torch and in the caller's context; results keep their order."""
    torch.set_num_threads(3)
    with threads_of(adapter):
        assert workers() == 3
        barrier = threading.Barrier(3)  # which only three threads at once get past

        def task(number: int) -> tuple[int, int, int]:
            if number < 3:
                barrier.wait(30)
            return number, torch.get_num_threads(), workers()

        assert run_all([lambda number=number: task(number) for number in range(40)]) == [
            (number, 1, 3) for number in range(40)
        ]
        assert run_all([]) == []
    assert workers() == 1
    assert torch.get_num_threads() == 3


def test_an_error_in_a_task_reaches_the_caller(adapter: TinyAdapter) -> None:
    with threads_of(adapter):
        before = threading.active_count()
        with pytest.raises(ZeroDivisionError):
            run_all([lambda: 1, lambda: 1 // 0, lambda: 2])
        assert threading.active_count() == before


def test_an_objective_of_the_callers_is_called_by_its_thread(adapter: TinyAdapter) -> None:
    seen = set()

    def objective(logits: Tensor) -> Tensor:
        seen.add(threading.get_ident())
        return logits[5]

    Explainer(adapter).explain(PICTURE, targets="all", method=GradientCAM(objective=objective))
    assert seen == {threading.get_ident()}
