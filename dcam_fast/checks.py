"""Checks of the types of arguments, before any work."""

from __future__ import annotations

import operator
from typing import SupportsIndex


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


def check_text(caller: str, name: str, value: object) -> None:
    """Raise TypeError unless the value is a str or None."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{caller}: {name} must be a str or None, got {value!r}")
