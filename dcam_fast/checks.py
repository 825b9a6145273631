"""Checks of the types of arguments, before any work."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any, Final, SupportsIndex

ABOVE_ZERO: Final = math.ulp(0)  # the smallest positive number


def check_count(caller: str, name: str, value: SupportsIndex | None) -> int | None:
    """Check a positive integer or None; returns it as an int or None.

    Raises:
        TypeError: `value` is neither an integer nor None.
        ValueError: it is not positive.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{caller}: {name} must be a positive whole number or None, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError as error:  # an array with several elements
        raise TypeError(f"{caller}: {name} must be a positive whole number or None, got {value!r}") from error
    if number < 1:
        raise ValueError(f"{caller}: {name} must be a positive whole number or None, got {value!r}")
    return number


def check_switch(caller: str, name: str, value: object) -> None:
    """Raise TypeError unless the value is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{caller}: {name} must be True or False, got {value!r}")


def check_number(caller: str, name: str, value: Any, need: str, *, minimum: float) -> float:
    """Check a finite number, also of NumPy; returns it as a float.

    Args:
        caller: that messages name.
        name: of the argument.
        value: the argument.
        need: what it must be, for messages.
        minimum: the smallest number that is allowed.

    Raises:
        TypeError: `value` is no number.
        ValueError: it is smaller, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{caller}: {name} must be {need}, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an int that is too large
        number = math.inf
    if not (math.isfinite(number) and number >= minimum):
        raise ValueError(f"{caller}: {name} must be {need}, got {value!r}")
    return number


def check_text(caller: str, name: str, value: object) -> None:
    """Raise TypeError unless the value is a str or None, and ValueError for half of a character."""
    if value is None:
        return
    if not isinstance(value, str):
        raise TypeError(f"{caller}: {name} must be a str or None, got {value!r}")
    check_whole(caller, name, value)


def check_whole(caller: str, name: str, value: str) -> None:
    """Raise ValueError for a text with a lone surrogate: no tokenizer reads it and no file holds it."""
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{caller}: {name} must be text without lone surrogates, got {value!r}")
