"""Launch configurations of the kernels by shape class, from the committed tuning.json.

There is no autotuning at run time. For every kernel the table lists classes in order. The first class whose `up_to`
bounds hold for the shape gives block sizes, warps and stages. An empty class means that another kernel is faster.
"""

from __future__ import annotations

import contextlib
import functools
import json
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

TABLE: Final = Path(__file__).parent / "tuning.json"


@functools.cache
def table() -> dict[str, Any]:
    """The committed table; `tune` changes the `kernels` in place while it measures."""
    return json.loads(TABLE.read_text())


@functools.lru_cache(maxsize=4096)
def launch(kernel: str, **shape: int) -> dict[str, int]:
    """Block sizes, num_warps and num_stages of `kernel` at a shape, such as `targets=3, channels=4096`."""
    for entry in table()["kernels"][kernel]:
        if all(shape[name] <= bound for name, bound in entry["up_to"].items()):
            return entry["launch"]
    raise ValueError(f"launch: tuning.json must have a class of {kernel} for {shape}, got none")


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Makes the tensor's device current, because Triton launches there; nothing to do in the interpreter."""
    if tensor.is_cpu:
        return contextlib.nullcontext()
    return torch.get_device_module(tensor.device).device(tensor.device)
