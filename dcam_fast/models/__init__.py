"""Model families, with one adapter each. No other package knows a model's name.

`load` returns the adapter of a checkpoint; `Adapter` is the interface that a new family implements.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any, Final

import torch

from dcam_fast.checks import check_switch, check_text
from dcam_fast.models.adapter import Adapter, AdapterError
from dcam_fast.models.tiny import WEIGHTS
from dcam_fast.torch_modes import own_modes

__all__ = ["DTYPES", "FAMILIES", "Adapter", "AdapterError", "check_device", "load"]

# model_type in config.json -> the module whose `load_adapter(path, device=, attention=, trust_remote_code=, dtype=)`
# returns the adapter. It is imported on first use, so an unused family needs no packages and no time.
FAMILIES: Final[dict[str, str]] = {
    "dcam_tiny": "dcam_fast.models.tiny.adapter",
    "diffusion_gemma": "dcam_fast.models.diffusion_gemma.adapter",
    "dimple": "dcam_fast.models.dream.dimple",
    "dream-vl": "dcam_fast.models.dream.dream_vl",
    "llava_llada": "dcam_fast.models.llava.loading",
}

log = logging.getLogger(__name__)

# No float16: gradients of nearly certain tokens underflow there.
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def check_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A dtype of `DTYPES`, given as such or by name.

    Raises:
        AdapterError: for any other.
    """
    resolved = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if resolved is None or resolved not in DTYPES.values():
        raise AdapterError(f"load: dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return resolved


@own_modes()
def load(
    name: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    attention: str | None = None,
    trust_remote_code: bool = False,
    dtype: torch.dtype | str | None = None,
) -> Adapter[Any]:
    """Loads a model: `"tiny"`, the embedded one, or a folder with the config.json of a known family.

    Args:
        name: the model's name or folder.
        device: a torch device that is available.
        attention: attention topology of the generation, where the family has several (None: the model's default).
        trust_remote_code: whether code that comes with the checkpoint may run.
        dtype: of the weights and the model's computations, one of `DTYPES` or its name (None: the family's choice, for
            `"tiny"` float32). Objectives, pooling and maps are always float32.

    Returns:
        The model's adapter.

    Raises:
        AdapterError: for a model, dtype or device that is not available, or a checkpoint that cannot be loaded.
        TypeError: for an argument of the wrong type.

    Example:
        >>> adapter = load("tiny", attention="joint")
        >>> adapter.name, adapter.num_layers, adapter.default_layers
        ('tiny', 6, (2,))
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"load: model must be 'tiny' or a folder, got {name!r}")
    check_text("load", "attention", attention)
    check_switch("load", "trust_remote_code", trust_remote_code)
    resolved = None if dtype is None else check_dtype(dtype)
    check_device("load", device)
    path = WEIGHTS if name == "tiny" else Path(name)
    model_type = _model_type(path)
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise AdapterError(f"load: model_type in {path / 'config.json'} must be one of {known}, got {model_type!r}")
    started = time.perf_counter()
    family = importlib.import_module(FAMILIES[model_type])
    adapter: Adapter[Any] = family.load_adapter(
        path, device=str(device), attention=attention, trust_remote_code=trust_remote_code, dtype=resolved
    )
    log.info("loaded %s (%s) on %s in %.2f s", path, model_type, device, time.perf_counter() - started)
    return adapter


def check_device(caller: str, device: object) -> None:
    """Checks that a torch device is available.

    Raises:
        AdapterError: if it is not, with the devices that are.
    """
    try:
        if not isinstance(device, str | torch.device) or torch.device(device).type == "meta":
            raise TypeError
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:  # depends on the backend
        known = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise AdapterError(
            f"{caller}: device must be one that is available ({', '.join(known)}), got {str(device)!r}"
        ) from error


def _model_type(path: Path) -> object:
    file = path / "config.json"
    if not file.is_file():
        raise AdapterError(
            f"load: model must be 'tiny', the embedded one, or a folder with a config.json, got {str(path)!r}"
        )
    try:
        config = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"load: {file} must be JSON that can be read, got {error}") from error
    if not isinstance(config, dict):
        raise AdapterError(f"load: {file} must hold an object, got {type(config).__name__}")
    return config.get("model_type")
