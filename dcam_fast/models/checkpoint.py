"""Checkpoints of transformers' own classes, read with care: safetensors only, and whatever is wrong with a file is said
instead of being made up for with random numbers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from dcam_fast.models.adapter import AdapterError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def check_transformers(family: str, oldest: str, beyond: str) -> None:
    """Raises AdapterError unless the installed transformers is ``oldest`` or newer and older than ``beyond``, versions
    such as ``"4.50"``."""

    import transformers  # takes seconds: only for families that need it

    def number(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in version.split(".")[:2])

    if not number(oldest) <= number(transformers.__version__) < number(beyond):
        raise AdapterError(
            f"{family}: transformers must be {oldest} or newer and older than {beyond}, "
            f"got {transformers.__version__}; pip install 'transformers>={oldest},<{beyond}'"
        )


def check_files(path: Path) -> None:
    """Raises AdapterError unless the weights in folder ``path`` are there, whole, and safetensors."""
    index = path / INDEX
    if index.is_file():
        try:
            files = sorted({path / shard for shard in json.loads(index.read_text())["weight_map"].values()})
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise AdapterError(f"load: {index} must be an index of shards, got {error!r}") from error
    else:
        files = [path / SINGLE]
    for file in files:
        if not file.is_file():
            raise AdapterError(f"load: weights must be in {file}, a safetensors file, got none there")
        try:
            with safe_open(file, framework="pt"):  # which compares the header with the length of the file
                pass
        except (SafetensorError, OSError, struct.error) as error:
            raise AdapterError(f"load: {file} must be a whole safetensors file, got {error}") from error


def load_model(model_class: Any, path: Path, device: str, **options: Any) -> Any:
    """A model of ``model_class`` from folder ``path`` on ``device``, frozen and in evaluation mode.

    Args:
        options: handed on to its ``from_pretrained``.

    Raises:
        AdapterError: for a file that is missing or damaged, or weights that are not those of the configuration.
    """
    from huggingface_hub.errors import StrictDataclassError  # with transformers, which the family has imported

    check_files(path)
    try:
        model, report = model_class.from_pretrained(
            path,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # so that the report names them
            output_loading_info=True,
            **options,
        )
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, SafetensorError, StrictDataclassError) as error:
        raise AdapterError(f"load: {path} must be a checkpoint that transformers can load, got {error}") from error
    for kind, need in (("mismatched_keys", "of the configuration's shape"), ("missing_keys", "in the checkpoint")):
        wrong = sorted(key if isinstance(key, str) else key[0] for key in report[kind])
        if wrong:
            shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
            raise AdapterError(f"load: weights in {path} must be {need}, got {kind.replace('_keys', '')} {shown}")
    model.to(device=device)
    model.eval()
    model.requires_grad_(False)
    return model


def default_dtype(device: str) -> torch.dtype:
    """That of large models whose own is not asked for: bfloat16 where it is fast. float16 is no choice, even where the
    authors have it: the gradient of a token that is nearly certain is smaller than any of its numbers."""
    return torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
