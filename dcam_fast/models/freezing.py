"""Freezes a model while it is explained, and then leaves it as it was."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from torch import nn

from dcam_fast.torch_modes import own_modes

Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass
class _Frozen:
    """A model in use, and what was changed in it.

    Attributes:
        model: kept alive, so that its `id` stays its own.
        training: modules that were in training mode.
        trainable: parameters that required gradients.
        users: contexts that are open.
    """

    model: nn.Module
    training: list[nn.Module]
    trainable: list[nn.Parameter]
    users: int = 0


_LOCK: Final = threading.Lock()
_IN_USE: Final[dict[int, _Frozen]] = {}


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """A context in which no parameter of `model` requires gradients and every module is in evaluation mode.

    The first context of a model changes it and the last one, in whichever thread, restores it. Flags are set one by
    one: `train` and `eval` may be overridden, and would give all modules the same mode.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout().eval())
    >>> with frozen(model):
    ...     model.training, model[0].weight.requires_grad
    (False, False)
    >>> model.training, model[0].weight.requires_grad, model[1].training
    (True, True, False)
    """
    with _LOCK:
        used = _IN_USE.get(id(model))
        if used is None:
            used = _IN_USE[id(model)] = _freeze(model)
        used.users += 1
    try:
        yield
    finally:
        with _LOCK:
            used.users -= 1
            if not used.users:
                del _IN_USE[id(model)]
                _restore(used)


def on_frozen_model(method: Method) -> Method:
    """A decorator for methods of an adapter: they run in torch's default modes and on the adapter's frozen model."""

    @functools.wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        with own_modes(), self.frozen():
            return method(self, *args, **kwargs)

    return run  # type: ignore[return-value]


def _freeze(model: nn.Module) -> _Frozen:
    modules = list(model.modules())
    training = [module for module in modules if module.training]
    parameters = (parameter for module in modules for parameter in module._parameters.values())
    # By `id`, as two modules may share a parameter.
    trainable = {id(parameter): parameter for parameter in parameters if parameter is not None}
    changed = _Frozen(model, training, [parameter for parameter in trainable.values() if parameter.requires_grad])
    for module in changed.training:
        module.training = False
    for parameter in changed.trainable:
        parameter.requires_grad_(False)
    return changed


def _restore(changed: _Frozen) -> None:
    for module in changed.training:
        module.training = True
    for parameter in changed.trainable:
        parameter.requires_grad_(True)
