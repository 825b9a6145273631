"""A computation in a separate thread that runs only while a value is requested."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable

import pytest

from dcam_fast.models.stepping import stepwise


def test_values_come_on_request() -> None:
    done: list[int] = []

    def run(hand: Callable[[int], None]) -> int:
        for value in range(3):
            done.append(value)
            hand(value)
        return 3

    values = stepwise(run)
    assert not done
    for expected in range(4):
        assert next(values) == expected
        assert done == list(range(min(expected + 1, 3)))
    assert next(values, None) is None


@pytest.mark.parametrize("after", [0, 2])
def test_errors_reach_the_caller(after: int) -> None:
    def run(hand: Callable[[int], None]) -> int:
        for value in range(after):
            hand(value)
        raise ZeroDivisionError("inside")

    values = stepwise(run)
    assert [next(values) for _ in range(after)] == list(range(after))
    with pytest.raises(ZeroDivisionError, match="inside"):
        next(values)
    assert next(values, None) is None


@pytest.mark.parametrize("begun", [0, 1])
def test_closing_the_generator_cleans_up(begun: int) -> None:
    events: list[str] = []

    def run(hand: Callable[[int], None]) -> int:
        try:
            hand(0)
            events.append("went on")
        finally:
            events.append("cleaned up")
        return 1

    threads = threading.active_count()
    values = stepwise(run)
    for _ in range(begun):
        next(values)
    del values
    gc.collect()
    assert threading.active_count() == threads
    assert events == ["cleaned up"] * begun
