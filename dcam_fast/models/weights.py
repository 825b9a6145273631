"""The weight files of a checkpoint. Does not import transformers, which takes seconds."""

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
    """The files with the weights of the checkpoint in folder `path`.

    Raises:
        AdapterError: for a file that is missing, truncated, or not safetensors.
    """
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
            with safe_open(file, framework="pt"):  # compares the header with the file's length
                pass
        except (SafetensorError, OSError, struct.error) as error:
            raise AdapterError(f"load: {file} must be a whole safetensors file, got {error}") from error
    return files
