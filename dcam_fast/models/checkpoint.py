"""Loading of checkpoints: safetensors only, nothing from the network, one tensor at a time.

Missing and damaged files are errors; no weight is ever initialized at random in their place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import PretrainedConfig, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin

from dcam_fast.models.adapter import AdapterError
from dcam_fast.models.hub import cached
from dcam_fast.models.weights import check_files

# The errors that a model's code raises on a configuration it cannot read.
CONFIG_ERRORS: Final = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    SafetensorError,
    StrictDataclassError,
)
WEIGHT_RULES: Final = {"mismatched": "of the configuration's shape", "missing": "in the checkpoint"}
_BUILDING = threading.Lock()


class Releases(NamedTuple):
    """The releases of transformers that a family supports, such as `"4.50"`.

    Attributes:
        oldest: the first supported release.
        beyond: the first newer release that is not supported.
        reason: why it is not.
    """

    oldest: str
    beyond: str
    reason: str


def check_transformers(family: str, releases: Releases) -> None:
    """Checks the installed release of transformers.

    Raises:
        AdapterError: unless it is one of `releases`.
    """

    def number(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in version.split(".")[:2])

    oldest, beyond, reason = releases
    if not number(oldest) <= number(transformers.__version__) < number(beyond):
        raise AdapterError(
            f"{family}: transformers must be {oldest} or newer and older than {beyond} ({reason}), "
            f"got {transformers.__version__}; pip install 'transformers>={oldest},<{beyond}'"
        )


def default_dtype(device: str) -> torch.dtype:
    """The dtype of a large model's weights on `device` unless the caller chooses: bfloat16 where it is fast.

    It is never float16, even where the official code uses it: gradients of nearly certain tokens underflow there.
    """
    return torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16


# ------------------------------------------------------------------------------------------- classes of transformers


def load_model(model_class: Any, path: Path, device: str, **options: Any) -> Any:
    """Loads a model of a class of transformers, frozen and in evaluation mode.

    Args:
        model_class: of transformers.
        path: a folder with config.json and safetensors files.
        device: where the model goes.
        options: passed to `model_class.from_pretrained`.

    Raises:
        AdapterError: for a file that is missing or damaged, or weights that do not match the configuration.
    """
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
    except CONFIG_ERRORS as error:
        raise AdapterError(f"load: {path} must be a checkpoint that transformers can load, got {error}") from error
    names = {kind: [key if isinstance(key, str) else key[0] for key in report[f"{kind}_keys"]] for kind in WEIGHT_RULES}
    _check_weights(path, names)
    return _frozen(model, device)


# -------------------------------------------------------------------------------------------------------- official code


@dataclass(frozen=True)
class Part:
    """A pretrained model that another model's constructor loads, such as a vision tower.

    Attributes:
        name: a folder or a Hub id, as the constructor gives it.
        folder: the folder on this machine, None if it is absent.
        model: built from its configuration, without weights.
    """

    name: str
    folder: Path | None
    model: nn.Module


@dataclass
class _Loading:
    """Names of the tensors still to be read, and of those with another shape in the files."""

    missing: set[str]
    mismatched: list[str] = field(default_factory=list)


def build_model(build: Callable[[Any], Any], config_class: Any, path: Path, device: str, dtype: torch.dtype) -> Any:
    """Loads a model of the official code, frozen and in evaluation mode.

    The model is built without weights and then filled one tensor at a time, so loading needs memory for the model and
    its largest tensor. Pretrained models that its constructor loads are built from their configurations. Their weights
    come from the checkpoint or, where it has none, from their own folder.

    Args:
        build: builds the model from its configuration.
        config_class: the configuration's class.
        path: a folder with config.json and safetensors files.
        device: where the model goes.
        dtype: of all floating-point weights, whatever the files and the official code say.

    Raises:
        AdapterError: for a file that is missing or damaged, or weights that do not match the configuration.
    """
    files = check_files(path)
    parts: list[Part] = []
    try:
        config = config_class.from_pretrained(path, local_files_only=True)
        with _without_weights(dtype, parts):
            model = build(config)
    except CONFIG_ERRORS as error:
        if isinstance(error, AdapterError):
            raise
        raise AdapterError(f"load: {path} must have a configuration for its model's code, got {error!r}") from error
    loading = _Loading(set(model.state_dict(keep_vars=True)))
    _read(model, files, "", loading, device, dtype)
    names = {id(module): f"{name}." for name, module in model.named_modules()}
    for part in (part for part in parts if id(part.model) in names):
        prefix = names[id(part.model)]
        wrong = [name for name in (*loading.missing, *loading.mismatched) if name.startswith(prefix)]
        if wrong and part.folder is None:
            raise AdapterError(
                f"load: {part.name!r}, named in {path / 'config.json'}, must be a folder or in the local Hub cache "
                f"(nothing is downloaded), as {path} lacks weights of it ({min(wrong)}), got neither; "
                f"hf download {part.name}, or name its folder as vision_tower or in config.json"
            )
        if wrong and part.folder is not None:
            _read(model, check_files(part.folder), prefix, loading, device, dtype)
    model.tie_weights()
    state = model.state_dict(keep_vars=True)
    missing = {name: state[name] for name in loading.missing & set(state)}  # tied weights have been filled by now
    unread = [name for name, tensor in missing.items() if tensor.is_meta or not isinstance(tensor, nn.Parameter)]
    _check_weights(path, {"mismatched": loading.mismatched, "missing": unread})
    return _frozen(model, device)


@contextmanager
def _without_weights(dtype: torch.dtype, parts: list[Part]) -> Iterator[None]:
    """A context in which this thread builds models whose parameters have `dtype` and take no memory.

    Nothing is downloaded. `from_pretrained` builds a model from its configuration and adds it to `parts`;
    configurations and image processors come from this machine. Other threads are not affected.
    """
    thread, default = threading.get_ident(), torch.get_default_dtype()

    def onto_meta(_module: nn.Module, _name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        if threading.get_ident() != thread or parameter.is_meta:
            return None
        return nn.Parameter(parameter.to("meta", dtype if parameter.is_floating_point() else None), requires_grad=False)

    def build_part(_original: Any, cls: Any, name: Any, *_args: Any, **_options: Any) -> Any:
        folder = _folder_of(str(name))
        # Without a configuration, its defaults: reading the weights then checks them.
        model = cls(cls.config_class() if folder is None else cls.config_class.from_pretrained(folder))
        parts.append(Part(str(name), folder, model))
        return model

    def read_locally(original: Any, cls: Any, name: Any, *args: Any, **options: Any) -> Any:
        try:
            return original(cls, name, *args, **{**options, "local_files_only": True})
        except OSError as error:
            raise AdapterError(
                f"load: {str(name)!r} must be a folder or in the local Hub cache (nothing is downloaded), got neither; "
                f"hf download {name}, or name its folder in config.json: {error}"
            ) from error

    with _BUILDING, ExitStack() as stack:
        for cls, method, replacement in (
            (PreTrainedModel, "from_pretrained", build_part),
            (PretrainedConfig, "get_config_dict", read_locally),
            (ImageProcessingMixin, "get_image_processor_dict", read_locally),
        ):
            original = vars(cls)[method]
            setattr(cls, method, _in_this_thread(replacement, original.__func__))
            stack.callback(setattr, cls, method, original)
        stack.callback(register_module_parameter_registration_hook(onto_meta).remove)  # type: ignore[arg-type]
        stack.callback(torch.set_default_dtype, default)
        torch.set_default_dtype(dtype)  # for buffers, as transformers does
        yield


def _in_this_thread(replacement: Callable[..., Any], original: Callable[..., Any]) -> Any:
    """A class method that calls `replacement`, with the original first, in this thread and `original` in others."""
    thread = threading.get_ident()

    def method(cls: Any, *args: Any, **options: Any) -> Any:
        if threading.get_ident() == thread:
            return replacement(original, cls, *args, **options)
        return original(cls, *args, **options)

    return classmethod(method)


def _folder_of(name: str) -> Path | None:
    """The folder on this machine of a pretrained model, given as a folder or as a Hub id."""
    folder = Path(name)
    if folder.is_dir():
        return folder if (folder / "config.json").is_file() else None
    return cached(name)


def _read(model: Any, files: list[Path], prefix: str, loading: _Loading, device: str, dtype: torch.dtype) -> None:
    """Fills those missing tensors of `model` that the files hold, under their names in the files after `prefix`."""
    for file in files:
        with safe_open(file, framework="pt") as opened:
            keys = [key for key in opened.keys() if prefix + key in loading.missing]  # noqa: SIM118
        for key in keys:
            with safe_open(file, framework="pt") as opened:  # opened per tensor: mapped pages would add up
                tensor: Tensor = opened.get_tensor(key)
                parent, _, leaf = (prefix + key).rpartition(".")
                module = model.get_submodule(parent)
                loading.missing.discard(prefix + key)
                if tensor.shape != getattr(module, leaf).shape:
                    loading.mismatched.append(prefix + key)
                    continue
                tensor = tensor.to(device, dtype if tensor.is_floating_point() else None, copy=True)
            is_parameter = leaf in dict(module.named_parameters(recurse=False))
            setattr(module, leaf, nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor)


def _check_weights(path: Path, names: dict[str, list[str]]) -> None:
    """Raises AdapterError if `names`, by kind of fault, has any name."""
    for kind, need in WEIGHT_RULES.items():
        wrong = sorted(names[kind])
        if wrong:
            shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
            raise AdapterError(f"load: weights in {path} must be {need}, got {kind} {shown}")


def _frozen(model: Any, device: str) -> Any:
    model.to(device=device)
    model.eval()
    model.requires_grad_(False)
    return model
