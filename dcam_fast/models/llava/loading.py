"""Checkpoints with the `model_type` llava_llada: LaViDa's and LLaDA-V's, which differ in their `architectures`."""

from __future__ import annotations

import importlib
import io
import json
import os
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch
from transformers import AutoTokenizer

from dcam_fast.models.adapter import AdapterError
from dcam_fast.models.checkpoint import build_model, check_transformers, default_dtype
from dcam_fast.models.llava.adapter import LlavaAdapter
from dcam_fast.models.llava.lavida import LavidaAdapter
from dcam_fast.models.llava.llada_v import LladavAdapter
from dcam_fast.models.loaded import is_tokenizer
from dcam_fast.models.pretrained import without_none

FAMILIES: Final[dict[str, type[LavidaAdapter] | type[LladavAdapter]]] = {
    family.architecture: family for family in (LavidaAdapter, LladavAdapter)
}


def load_adapter(
    path: Path,
    *,
    name: str,
    device: str,
    trust_remote_code: bool,
    dtype: torch.dtype | None,
    attention: str | None = None,
    answer_length: int | None = None,
    view: str | None = None,
    vision_tower: str | os.PathLike[str] | None = None,
) -> LlavaAdapter:
    """See `dcam_fast.models.load`. The code is that of the authors' package: code that comes with the checkpoint never
    runs."""
    named = json.loads((path / "config.json").read_text()).get("architectures") or [None]
    if named[0] not in FAMILIES:
        raise AdapterError(
            f"load: architectures in {path / 'config.json'} must be {' or '.join(FAMILIES)}, got {named[0]!r}"
        )
    family = FAMILIES[named[0]]
    family.check_options(attention, answer_length)
    family.check_view(view)
    if not any((path / file).is_file() for file in ("tokenizer.json", "tokenizer.model")):
        raise AdapterError(f"load: {path} must have a tokenizer.json or tokenizer.model, got neither")
    check_transformers(family.family, LlavaAdapter.transformers)
    package = package_of(family.family, family.architecture, family.source, family.requirements)
    model_class = getattr(package, family.architecture)

    def build(config: Any) -> Any:
        if vision_tower is not None:
            config.mm_vision_tower = os.fspath(vision_tower)
        model = model_class(config)
        tower = model.get_vision_tower()
        if not getattr(tower, "is_loaded", True):  # the configuration leaves it to the caller
            tower.load_model()
        return model

    model = build_model(build, model_class.config_class, path, device, dtype or default_dtype(device))
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    return adapter_of(model, tokenizer, name=name, attention=attention, answer_length=answer_length, view=view)


def adapter_of(
    model: Any,
    processor: Any,
    *,
    name: str,
    attention: str | None = None,
    answer_length: int | None = None,
    view: str | None = None,
    mask_token: int | None = None,
) -> LlavaAdapter:
    """See `dcam_fast.models.adapter_of`. The processor is the checkpoint's tokenizer: the vision tower has the image
    processor."""
    names = [each.__name__ for each in type(model).__mro__]
    family = next((FAMILIES[each] for each in names if each in FAMILIES), None)
    if family is None:
        raise AdapterError(f"from_model: model must be a {' or '.join(FAMILIES)}, got {names[0]}")
    check_transformers(family.family, LlavaAdapter.transformers)
    if not is_tokenizer(processor):
        raise AdapterError(
            f"{family.family}: processor must be the checkpoint's tokenizer, got {type(processor).__name__}"
        )
    options = without_none(attention=attention, answer_length=answer_length, view=view, mask_token=mask_token)
    return family(model, processor, name=name, **options)


def package_of(family: str, architecture: str, source: str, requirements: tuple[str, ...]) -> ModuleType:
    """The module of the authors' package that holds the model.

    Args:
        family: the name that error messages begin with.
        architecture: the model's class.
        source: address of the official code.
        requirements: packages that it imports.

    Raises:
        AdapterError: where the package is missing, is another family's, or cannot be imported.
    """
    instructions = (
        f"it is not on PyPI: clone {source} and put the folder that holds `llava` on PYTHONPATH, with what it "
        f"imports: pip install {' '.join(requirements)}"
    )
    output = io.StringIO()
    try:
        with redirect_stdout(output):  # the package prints import errors and carries on
            module = importlib.import_module("llava.model.language_model.llava_llada")
    except (ImportError, AttributeError, RuntimeError) as error:
        hidden = [line.partition("Error: ")[2] for line in output.getvalue().splitlines() if "Failed to import" in line]
        causes = "; ".join(dict.fromkeys([*hidden, repr(error)]))
        raise AdapterError(f"{family}: package `llava` must be importable, got {causes}; {instructions}") from error
    if not hasattr(module, architecture):
        raise AdapterError(
            f"{family}: package `llava` must be that of {source}, got {module.__file__}. LaViDa and LLaDA-V both call "
            f"theirs `llava`, so one process can hold only one of them; {instructions}"
        )
    return module
