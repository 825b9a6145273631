"""Checkpoints of the Hub, by id: from the local cache, or downloaded. Does not import huggingface_hub before it is
needed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from dcam_fast.models.adapter import AdapterError
from dcam_fast.models.weights import check_files

HUB_ID: Final = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# Weights as safetensors, configurations, tokenizers, and code, which runs only where it is trusted.
FILES: Final = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.py")


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form of a Hub id.

    >>> is_hub_id("owner/model"), is_hub_id("model"), is_hub_id("./model")
    (True, False, False)
    """
    return HUB_ID.fullmatch(name) is not None


def cached(name: str) -> Path | None:
    """The folder of a checkpoint in the local Hub cache; None where it has none with a config.json."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):  # not in the cache, or not a Hub id
        return None
    return folder if (folder / "config.json").is_file() else None


def downloaded(name: str) -> Path:
    """The folder of a checkpoint, from the local Hub cache if all weights are there, else from the Hub.

    Raises:
        AdapterError: if it is neither in the cache nor can be downloaded.
    """
    from huggingface_hub import snapshot_download

    folder = cached(name)
    if folder is not None and _is_whole(folder):
        return folder
    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES), ignore_patterns="*/*"))
    except (OSError, ValueError) as error:  # offline, no such model, or no access to it
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise AdapterError(
            f"load: {name!r} must be a folder, in the local Hub cache, or on the Hub and within reach, got "
            f"{type(error).__name__} ({reason}); run `hf download {name}` where there is a network, or name a folder"
        ) from error


def _is_whole(folder: Path) -> bool:
    try:
        check_files(folder)
    except AdapterError:
        return False
    return True
