"""How each kernel is launched: fixed configurations by shape class, from the committed tuning.json.

Nothing is tried out at run time. For every kernel the table lists classes in order; the first whose `up_to` bounds hold
for the shape at hand gives block sizes, warps and stages (none at all: another kernel does this class better).
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
    """Triton launches on the current device, so that has to be the tensor's; the interpreter has none."""
    if tensor.is_cpu:
        return contextlib.nullcontext()
    return torch.get_device_module(tensor.device).device(tensor.device)
