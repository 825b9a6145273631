"""Model families, one adapter each. Nothing outside this package knows a model's name."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, Final

import torch

from dcam_fast.models.adapter import Adapter, AdapterError

__all__ = ["DTYPES", "FAMILIES", "Adapter", "AdapterError", "load"]

# model_type in config.json -> the module whose ``load_adapter(path, device=, attention=, trust_remote_code=, dtype=)``
# makes the adapter. Imported when asked for, so that a family costs nothing and needs nothing until then.
FAMILIES: Final[dict[str, str]] = {
    "diffusion_gemma": "dcam_fast.models.diffusion_gemma",
    "dimple": "dcam_fast.models.dimple",
    "dream-vl": "dcam_fast.models.dream_vl",
    "llava_llada": "dcam_fast.models.llava_llada",
}


# No float16: the gradient of a token that is nearly certain is smaller than any of its numbers.
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def check_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """One of `DTYPES`, by itself or by name. Raises AdapterError for any other."""
    wanted = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if wanted is None or wanted not in DTYPES.values():
        raise AdapterError(f"load: dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return wanted


def load(
    name: str,
    *,
    device: str = "cpu",
    attention: str | None = None,
    trust_remote_code: bool = False,
    dtype: torch.dtype | str | None = None,
) -> Adapter[Any]:
    """The adapter of a model: ``"tiny"``, the embedded one, or a folder with the config.json of a known family.

    Args:
        name: the model's name or folder.
        device: a torch device.
        attention: attention topology of the generation, where the family has several (None: the model's own).
        trust_remote_code: whether code that comes with the checkpoint may run.
        dtype: of the weights and of what is computed with them, one of `DTYPES` or its name (None: the family's choice,
            for ``"tiny"`` float32). Objectives, pooling and maps are float32 whatever it is.

    Raises:
        AdapterError: for a name, folder or family that there is no adapter for, or one that cannot be loaded.
    """
    wanted = None if dtype is None else check_dtype(dtype)
    if name == "tiny":
        from dcam_fast.models.tiny.adapter import TinyAdapter

        return TinyAdapter(
            device=device,
            attention=attention or "prefix",  # type: ignore[arg-type]
            dtype=wanted or torch.float32,
        )
    path = Path(name)
    model_type = _model_type(path)
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise AdapterError(f"load: model_type in {path / 'config.json'} must be one of {known}, got {model_type!r}")
    family = importlib.import_module(FAMILIES[model_type])
    adapter: Adapter[Any] = family.load_adapter(
        path, device=device, attention=attention, trust_remote_code=trust_remote_code, dtype=wanted
    )
    return adapter


def _model_type(path: Path) -> str | None:
    file = path / "config.json"
    if not file.is_file():
        raise AdapterError(
            f"load: model must be 'tiny', the embedded one, or a folder with a config.json, got {str(path)!r}"
        )
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise AdapterError(f"load: {file} must be JSON that can be read, got {error}") from error
    if not isinstance(config, dict):
        raise AdapterError(f"load: {file} must hold an object, got {type(config).__name__}")
    return config.get("model_type")
