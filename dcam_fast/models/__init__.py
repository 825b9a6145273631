"""Model families, with one adapter each. No other package knows a model's name.

`load` returns the adapter of a checkpoint, and `adapter_of` that of a model in memory. `Adapter` is the interface that
a new family implements.
"""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from dcam_fast.checks import check_count, check_switch, check_text
from dcam_fast.models.adapter import Adapter, AdapterError
from dcam_fast.models.hub import downloaded, is_hub_id
from dcam_fast.models.loaded import check_loaded, name_of, one_device, unwrapped
from dcam_fast.models.tiny import WEIGHTS
from dcam_fast.torch_modes import own_modes

__all__ = ["DTYPES", "FAMILIES", "Adapter", "AdapterError", "adapter_of", "check_device", "load"]

# model_type of the configuration -> the module of the family. Its functions return an adapter:
# `load_adapter(path, *, name, device, trust_remote_code, dtype, ...)` from a folder, and
# `adapter_of(model, processor, *, name, ...)` of a model in memory. What follows are the family's options, each with
# None for its default. A module is imported on first use, so an unused family needs no packages and no time.
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
    device_map: object = None,
    trust_remote_code: bool = False,
    dtype: torch.dtype | str | None = None,
    attention: str | None = None,
    answer_length: int | None = None,
    view: str | None = None,
    vision_tower: str | os.PathLike[str] | None = None,
) -> Adapter[Any]:
    """Loads a model: `"tiny"`, the embedded one, or a folder or Hub id with the config.json of a known family.

    Args:
        name: the model's name, folder or Hub id. A Hub id that is not in the local cache is downloaded.
        device: a torch device that is available.
        device_map: as in transformers, instead of `device`; it must name one device.
        trust_remote_code: whether code that comes with the checkpoint may run.
        dtype: of the weights and the model's computations, one of `DTYPES` or its name (None: the family's choice, for
            `"tiny"` float32). Objectives, pooling and maps are always float32.
        attention: attention topology of the generation, where the family has several (None: the model's default).
        answer_length: tokens in an answer, where the family lets the caller choose (None: the model's default).
        view: the default view of the image, where the family has several (None: the family's default).
        vision_tower: folder or Hub id of the vision tower, where the family loads one from elsewhere (None: that of
            the model's configuration).

    Returns:
        The model's adapter.

    Raises:
        AdapterError: for a model, dtype or device that is not available, an option that the family does not have, or a
            checkpoint that cannot be loaded.
        TypeError, ValueError: for an argument of the wrong type or value.

    Example:
        >>> adapter = load("tiny", attention="joint")
        >>> adapter.name, adapter.num_layers, adapter.default_layers
        ('tiny', 6, (2,))
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"load: model must be 'tiny', a folder or a Hub id, got {name!r}")
    for option, value in (("attention", attention), ("view", view)):
        check_text("load", option, value)
    if not isinstance(vision_tower, str | os.PathLike | None):
        raise TypeError(f"load: vision_tower must be a folder, a Hub id or None, got {vision_tower!r}")
    check_switch("load", "trust_remote_code", trust_remote_code)
    resolved = None if dtype is None else check_dtype(dtype)
    place = device if device_map is None else one_device(device_map)
    check_device("load", place)
    path = _folder_of(name)
    model_type = _model_type(path)
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise AdapterError(f"load: model_type in {path / 'config.json'} must be one of {known}, got {model_type!r}")
    started = time.perf_counter()
    load_adapter = importlib.import_module(FAMILIES[model_type]).load_adapter
    options: dict[str, object] = {
        "attention": attention,
        "answer_length": check_count("load", "answer_length", answer_length),
        "view": view,
        "vision_tower": vision_tower,
    }
    adapter: Adapter[Any] = load_adapter(
        path,
        name=str(name) if name == "tiny" or path != Path(name) else path.resolve().name,
        device=str(place),
        trust_remote_code=trust_remote_code,
        dtype=resolved,
        **_options_of(load_adapter, "load", model_type, options),
    )
    log.info("loaded %s (%s) on %s in %.2f s", path, model_type, place, time.perf_counter() - started)
    return adapter


@own_modes()
def adapter_of(model: Any, processor: Any = None, *, name: str | None = None, **options: Any) -> Adapter[Any]:
    """The adapter of a model that is in memory. The model stays where it is and as it is; nothing is copied.

    Args:
        model: of a known family, also wrapped by peft or `torch.compile`. While it is explained, the model is frozen
            and in evaluation mode; afterwards it is as it was.
        processor: what the family encodes with: a tokenizer (LaViDa, LLaDA-V), a processor (Dimple, Dream-VL), both a
            tokenizer and an image processor (DiffusionGemma), or None (the embedded model's own).
        name: shown in results (None: that of its checkpoint).
        options: of the family, such as `attention` and `answer_length`.

    Raises:
        AdapterError: for a model, processor or option that the family does not support.
        TypeError: for something that is not a torch module.

    Example:
        >>> model = load("tiny").model.train()
        >>> adapter_of(model, attention="joint").attention
        'joint'
        >>> model.training
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"from_model: model must be a torch module, got {type(model).__name__}")
    check_text("from_model", "name", name)
    inner: Any = unwrapped(model)
    model_type = getattr(getattr(inner, "config", None), "model_type", None)
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise AdapterError(
            f"from_model: model must have a config with a model_type of {known}, got {type(inner).__name__} with "
            f"{model_type!r}"
        )
    check_loaded(inner)
    make = importlib.import_module(FAMILIES[model_type]).adapter_of
    adapter: Adapter[Any] = make(
        inner,
        processor,
        name=name_of(inner) if name is None else name,
        **_options_of(make, "from_model", model_type, options),
    )
    return adapter


def _options_of(
    function: Callable[..., Any], caller: str, model_type: str, options: dict[str, object]
) -> dict[str, object]:
    """The options that are not None, which a family's function must have.

    Raises:
        AdapterError: for one that it does not have.
    """
    parameters = inspect.signature(function).parameters.values()
    known = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY and each.default is None]
    chosen = {option: value for option, value in options.items() if value is not None}
    for option, value in chosen.items():
        if option not in known:
            have = f"whose options are {', '.join(known)}" if known else "which has no options"
            raise AdapterError(f"{caller}: {option} must be left out for {model_type}, {have}, got {value!r}")
    return chosen


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


def _folder_of(name: str | os.PathLike[str]) -> Path:
    if name == "tiny":
        return WEIGHTS
    if isinstance(name, str) and not Path(name).exists() and is_hub_id(name):
        return downloaded(name)
    return Path(name)


def _model_type(path: Path) -> object:
    file = path / "config.json"
    if not file.is_file():
        raise AdapterError(
            f"load: model must be 'tiny', the embedded one, a folder with a config.json, or a Hub id, got {str(path)!r}"
        )
    try:
        config = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"load: {file} must be JSON that can be read, got {error}") from error
    if not isinstance(config, dict):
        raise AdapterError(f"load: {file} must hold an object, got {type(config).__name__}")
    return config.get("model_type")
