"""The weight files of a checkpoint. Imports nothing of transformers, which takes seconds."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open

from dcam_fast.models.adapter import AdapterError

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"


def check_files(path: Path) -> list[Path]:
    """The files with the weights of folder ``path``. Raises AdapterError unless they are there, whole, and
    safetensors."""
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
    return files
