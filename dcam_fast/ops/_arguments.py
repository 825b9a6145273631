"""Checks of the types of arguments, shared by the ops. Each op checks shapes, dtypes and devices itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, NoReturn

import numpy as np
from torch import Tensor, strided

from dcam_fast.config import RefineConfig


def _raise(caller: str, name: str, need: str, value: object) -> NoReturn:
    raise TypeError(f"{caller}: {name} must be {need}, got {type(value).__name__}")


def check_tensor(caller: str, name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        _raise(caller, name, "a tensor", value)
    if value.layout is not strided:
        raise TypeError(f"{caller}: {name} must be a dense tensor, got layout {value.layout}")


def check_tensors(caller: str, name: str, value: object) -> list[Tensor]:
    """A tensor, or a list or tuple of tensors, as a list."""
    if isinstance(value, Tensor):
        tensors: list[Any] = [value]
    elif isinstance(value, (list, tuple)):
        tensors = list(value)
    else:
        _raise(caller, name, "a tensor or a sequence of tensors", value)
    for tensor in tensors:
        check_tensor(caller, name, tensor)
    return tensors


def check_array(caller: str, name: str, value: object) -> None:
    if not isinstance(value, np.ndarray):
        _raise(caller, name, "a NumPy array", value)


def check_config(caller: str, config: object) -> None:
    if not isinstance(config, RefineConfig):
        _raise(caller, "config", "a RefineConfig (dcam_fast.profile returns the named ones)", config)


def check_bool(caller: str, name: str, value: object) -> None:
    if not isinstance(value, bool):
        _raise(caller, name, "True or False", value)


def is_int(value: object) -> bool:
    """Whether `value` is an integer, also of NumPy, and not a bool."""
    # int first: the check of the abstract class costs a microsecond
    return type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))


def check_number(caller: str, name: str, value: Any) -> float:
    """A number, also of NumPy, as a float."""
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, Real)):
        _raise(caller, name, "a number", value)
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        raise ValueError(f"{caller}: {name} must be a number that a float holds, got a larger integer")
    return float(value)


def check_pair(caller: str, name: str, value: Any) -> tuple[int, int]:
    """A pair of integers, also of NumPy, as ints."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2 or not all(map(is_int, value)):
        raise TypeError(f"{caller}: {name} must be a pair of integers, got {value!r}")
    return int(value[0]), int(value[1])


def check_choice(caller: str, name: str, value: object, choices: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{caller}: {name} must be one of {', '.join(choices)}, got {value!r}")
