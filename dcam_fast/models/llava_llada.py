"""Checkpoints with the ``model_type`` llava_llada: LaViDa's and LLaDA-V's, told apart by their ``architectures``."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from transformers import AutoTokenizer

from dcam_fast.models.adapter import AdapterError
from dcam_fast.models.checkpoint import check_transformers, default_dtype, load_model
from dcam_fast.models.lavida import LavidaAdapter
from dcam_fast.models.lladav import LladavAdapter
from dcam_fast.models.llava import LlavaAdapter


def load_adapter(
    path: Path, *, device: str, attention: str | None, trust_remote_code: bool, dtype: torch.dtype | None
) -> LlavaAdapter:
    """See `dcam_fast.models.load`. The code is that of an installed package; code that comes with the checkpoint is
    not run, trusted or not."""
    families: dict[str, type[LavidaAdapter] | type[LladavAdapter]] = {
        family.architecture: family for family in (LavidaAdapter, LladavAdapter)
    }
    named = json.loads((path / "config.json").read_text()).get("architectures") or [None]
    if named[0] not in families:
        raise AdapterError(
            f"load: architectures in {path / 'config.json'} must be {' or '.join(families)}, got {named[0]!r}"
        )
    if not any((path / file).is_file() for file in ("tokenizer.json", "tokenizer.model")):
        raise AdapterError(f"load: {path} must have a tokenizer.json or tokenizer.model, got neither")
    family = families[named[0]]
    check_transformers(family.family, *LlavaAdapter.transformers)
    package = package_of(family.family, family.architecture, family.source)
    model = load_model(getattr(package, family.architecture), path, device, torch_dtype=dtype or default_dtype(device))
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    options: dict[str, Any] = {} if attention is None else {"attention": attention}
    return family(model, tokenizer, name=path.resolve().name, **options)


def package_of(family: str, architecture: str, source: str) -> ModuleType:
    """The module of the authors' package that holds the model.

    Raises:
        AdapterError: where it is not there, is another family's, or cannot be imported with this transformers.
    """
    help_ = (
        f"it is not on PyPI: clone {source} and put the folder that holds `llava` on PYTHONPATH, with what its "
        "pyproject.toml asks for"
    )
    try:
        module = importlib.import_module("llava.model.language_model.llava_llada")
    except (ImportError, AttributeError, RuntimeError) as error:
        raise AdapterError(f"{family}: package `llava` must be importable, got {error!r}; {help_}") from error
    if not hasattr(module, architecture):
        raise AdapterError(
            f"{family}: package `llava` must be that of {source}, got {module.__file__}. LaViDa and LLaDA-V both call "
            f"theirs `llava`, so that one process can hold only one of them; {help_}"
        )
    return module
