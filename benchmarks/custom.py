"""Custom implementations: functions from outside of this package that are benchmarked next to its backends.

An installed package brings its own by the entry point group `dcam_fast.implementations`.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points

from torch import Tensor

from dcam_fast.benchmarks.implementations import Call, Implementation, graph_of
from dcam_fast.benchmarks.op_cases import OPS, BenchmarkCase, Inputs, op_arguments

GROUP = "dcam_fast.implementations"


@dataclass(frozen=True)
class CustomImplementation:
    """A function that computes one op.

    Attributes:
        name: `module:function`, in tables and result files.
        op: the op that it computes.
        function: called with `op_arguments`; raises NotImplementedError for cases that it does not support.
    """

    name: str
    op: str
    function: Callable[..., Tensor]

    def implementation(self) -> Implementation:
        """As an implementation of the cases of its op."""
        return Implementation(self.name, self._build, origin="custom")

    def implementations(self, case: BenchmarkCase, device: str) -> list[Implementation]:
        """What to run of a case; on a GPU also as a CUDA graph, as for the backends of this package."""
        if case.op != self.op:
            return []
        found = [self.implementation()]
        if device != "cpu":
            found.append(Implementation(f"{self.name}, CUDA graph", graph_of(self._build), origin="custom"))
        return found

    def _build(self, case: BenchmarkCase, inputs: Inputs) -> Call:
        tensors, settings = op_arguments(case, inputs)
        return functools.partial(self.function, *tensors, **settings)


def load_implementation(name: str, op: str | None = None) -> CustomImplementation:
    """Imports an implementation.

    >>> load_implementation("dcam_fast.ops.reference:pool").op
    'pool'

    Args:
        name: `module:function`, where the module may lie in the current folder, or an entry point of the group
            `dcam_fast.implementations`.
        op: the op that it computes; None: the op of the function's name.

    Raises:
        ValueError: there is no such module, function, entry point or op.
        TypeError: it cannot be called.
    """
    reference = _resolve(name)
    module_name, _, attribute = reference.partition(":")
    if os.getcwd() not in sys.path:  # which a console script leaves out
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module may raise anything
        problem = f"{type(error).__name__}: {error}"
        raise ValueError(f"bench: implementation must be in a module that imports, got {name!r} ({problem})") from error
    try:
        function = functools.reduce(getattr, attribute.split("."), module)
    except AttributeError as error:
        raise ValueError(f"bench: implementation must be a function of its module, got {name!r} ({error})") from error
    if not callable(function):
        raise TypeError(f"bench: implementation must be callable, got {name!r}, of type {type(function).__name__}")
    op = op or attribute.rpartition(".")[-1]
    if op not in OPS:
        raise ValueError(f"bench: op must be one of {', '.join(OPS)}, got {op!r}: give --op, or name the function so")
    return CustomImplementation(reference, op, function)


def _resolve(name: str) -> str:
    """The `module:function` of a name.

    Raises:
        ValueError: it is neither that nor an entry point.
    """
    module, _, attribute = name.partition(":")
    if module and attribute:
        return name
    found = {point.name: point.value for point in entry_points(group=GROUP)}
    if name not in found:
        known = ", ".join(sorted(found)) or "none is installed"
        raise ValueError(f"bench: implementation must be module:function or an entry point ({known}), got {name!r}")
    return found[name]
