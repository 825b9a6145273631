"""Checks of the kinds of arguments, one for every op: what is wrong raises here, in the words of the op, before any
work. Shapes, dtypes and devices are checked by the ops."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, NoReturn

import numpy as np
from torch import Tensor, strided

from dcam_fast.config import RefineConfig


def _refuse(caller: str, name: str, need: str, value: object) -> NoReturn:
    raise TypeError(f"{caller}: {name} must be {need}, got {type(value).__name__}")


def check_tensor(caller: str, name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        _refuse(caller, name, "a tensor", value)
    if value.layout is not strided:
        raise TypeError(f"{caller}: {name} must be a dense tensor, got layout {value.layout}")


def check_tensors(caller: str, name: str, value: object) -> list[Tensor]:
    """A tensor, or a list or tuple of tensors, as a list."""
    if isinstance(value, Tensor):
        tensors: list[Any] = [value]
    elif isinstance(value, (list, tuple)):
        tensors = list(value)
    else:
        _refuse(caller, name, "a tensor or a sequence of tensors", value)
    for tensor in tensors:
        check_tensor(caller, name, tensor)
    return tensors


def check_array(caller: str, name: str, value: object) -> None:
    if not isinstance(value, np.ndarray):
        _refuse(caller, name, "a NumPy array", value)


def check_config(caller: str, config: object) -> None:
    if not isinstance(config, RefineConfig):
        _refuse(caller, "config", "a RefineConfig (dcam_fast.profile gives those that have names)", config)


def check_bool(caller: str, name: str, value: object) -> None:
    if not isinstance(value, bool):
        _refuse(caller, name, "True or False", value)


def is_int(value: object) -> bool:
    """Whether it is an integer, NumPy's too; a bool is none."""
    # int first: the abstract class costs a microsecond
    return type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))


def check_number(caller: str, name: str, value: Any) -> float:
    """An int or a float, NumPy's too, as a float."""
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, Real)):
        _refuse(caller, name, "a number", value)
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        raise ValueError(f"{caller}: {name} must be a number that a float holds, got an integer over it")
    return float(value)


def check_pair(caller: str, name: str, value: Any) -> tuple[int, int]:
    """Two integers, NumPy's too."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2 or not all(map(is_int, value)):
        raise TypeError(f"{caller}: {name} must be a pair of integers, got {value!r}")
    return int(value[0]), int(value[1])


def check_choice(caller: str, name: str, value: object, choices: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{caller}: {name} must be one of {', '.join(choices)}, got {value!r}")
