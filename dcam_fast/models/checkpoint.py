"""Checkpoints, read with care: safetensors only, nothing from the network, one tensor at a time, and whatever is wrong
with a file is said instead of being made up for with random numbers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import PretrainedConfig, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin

from dcam_fast.models.adapter import AdapterError
from dcam_fast.models.weights import check_files

# What a model's code raises on a configuration that it cannot read.
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
WRONG: Final = {"mismatched": "of the configuration's shape", "missing": "in the checkpoint"}
_BUILDING = threading.Lock()


class Releases(NamedTuple):
    """The releases of transformers that a family works with, such as ``"4.50"``.

    Attributes:
        oldest: the first.
        beyond: the first newer one that it does not work with.
        reason: why not.
    """

    oldest: str
    beyond: str
    reason: str


def check_transformers(family: str, releases: Releases) -> None:
    """Raises AdapterError unless the installed transformers is one of ``releases``."""

    def number(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in version.split(".")[:2])

    oldest, beyond, reason = releases
    if not number(oldest) <= number(transformers.__version__) < number(beyond):
        raise AdapterError(
            f"{family}: transformers must be {oldest} or newer and older than {beyond} ({reason}), "
            f"got {transformers.__version__}; pip install 'transformers>={oldest},<{beyond}'"
        )


def default_dtype(device: str) -> torch.dtype:
    """That of large models whose own is not asked for: bfloat16 where it is fast. float16 is no choice, even where the
    authors have it: the gradient of a token that is nearly certain is smaller than any of its numbers."""
    return torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16


# -------------------------------------------------------------------------------------------- transformers' own classes


def load_model(model_class: Any, path: Path, device: str, **options: Any) -> Any:
    """A model of ``model_class``, one of transformers' own, from folder ``path`` on ``device``, frozen and in
    evaluation mode.

    Args:
        options: handed on to its ``from_pretrained``.

    Raises:
        AdapterError: for a file that is missing or damaged, or weights that are not those of the configuration.
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
    names = {kind: [key if isinstance(key, str) else key[0] for key in report[f"{kind}_keys"]] for kind in WRONG}
    _check_weights(path, names)
    return _frozen(model, device)


# -------------------------------------------------------------------------------------------------------- authors' code


@dataclass(frozen=True)
class Part:
    """A pretrained model that the constructor of another one asked for, such as a vision tower.

    Attributes:
        name: what it asked for: a folder or a Hub id.
        folder: where that lies on this machine; None: nowhere.
        model: made from its configuration, without weights.
    """

    name: str
    folder: Path | None
    model: nn.Module


@dataclass
class _Loading:
    """Tensors that are still to be read, by name, and those of another shape in the files."""

    missing: set[str]
    mismatched: list[str] = field(default_factory=list)


def build_model(build: Callable[[Any], Any], config_class: Any, path: Path, device: str, dtype: torch.dtype) -> Any:
    """A model of the authors' code from folder ``path`` on ``device``, in ``dtype``, frozen and in evaluation mode.

    It is made without weights, and then gets them one tensor at a time: memory is needed for the model and its largest
    tensor. Pretrained models that its constructor asks for are made from their configurations. Their weights are those
    in the checkpoint and, where it has none, those in their own folder.

    Args:
        build: makes the model from its configuration.
        config_class: the configuration's class.
        path: a folder with config.json and safetensors files.
        device: where the model goes.
        dtype: of all its floating-point weights, whatever the files and the authors' code say.

    Raises:
        AdapterError: for a file that is missing or damaged, or weights that are not those of the configuration.
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
                f"hf download {part.name}, or name its folder in config.json"
            )
        if wrong and part.folder is not None:
            _read(model, check_files(part.folder), prefix, loading, device, dtype)
    model.tie_weights()
    state = model.state_dict(keep_vars=True)
    left = {name: state[name] for name in loading.missing & set(state)}  # some of them are tied to others by now
    unread = [name for name, tensor in left.items() if tensor.is_meta or not isinstance(tensor, nn.Parameter)]
    _check_weights(path, {"mismatched": loading.mismatched, "missing": unread})
    return _frozen(model, device)


@contextmanager
def _without_weights(dtype: torch.dtype, parts: list[Part]) -> Iterator[None]:
    """Models that this thread makes inside have parameters of ``dtype`` that take no memory, and buffers as they are.
    Nothing is downloaded: `from_pretrained` makes a model from its configuration and adds it to ``parts``; all else it
    takes from this machine."""
    thread, default = threading.get_ident(), torch.get_default_dtype()

    def onto_meta(_module: nn.Module, _name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        if threading.get_ident() != thread or parameter.is_meta:
            return None
        return nn.Parameter(parameter.to("meta", dtype if parameter.is_floating_point() else None), requires_grad=False)

    def make(_own: Any, cls: Any, name: Any, *_args: Any, **_options: Any) -> Any:
        folder = _folder_of(str(name))
        # By its defaults where there is none: the weights then tell whether that is right.
        model = cls(cls.config_class() if folder is None else cls.config_class.from_pretrained(folder))
        parts.append(Part(str(name), folder, model))
        return model

    def read(own: Any, cls: Any, name: Any, *args: Any, **options: Any) -> Any:
        try:
            return own(cls, name, *args, **{**options, "local_files_only": True})
        except OSError as error:
            raise AdapterError(
                f"load: {str(name)!r} must be a folder or in the local Hub cache (nothing is downloaded), got neither; "
                f"hf download {name}, or name its folder in config.json: {error}"
            ) from error

    with _BUILDING, ExitStack() as stack:
        for cls, method, instead in (
            (PreTrainedModel, "from_pretrained", make),
            (PretrainedConfig, "get_config_dict", read),
            (ImageProcessingMixin, "get_image_processor_dict", read),
        ):
            own = vars(cls)[method]
            setattr(cls, method, _in_this_thread(instead, own.__func__))
            stack.callback(setattr, cls, method, own)
        stack.callback(register_module_parameter_registration_hook(onto_meta).remove)  # type: ignore[arg-type]
        stack.callback(torch.set_default_dtype, default)
        torch.set_default_dtype(dtype)  # for buffers, as transformers does
        yield


def _in_this_thread(instead: Callable[..., Any], own: Callable[..., Any]) -> Any:
    """A class method that is ``instead``, given its own form first, in this thread, and ``own`` in others."""
    thread = threading.get_ident()

    def method(cls: Any, *args: Any, **options: Any) -> Any:
        if threading.get_ident() == thread:
            return instead(own, cls, *args, **options)
        return own(cls, *args, **options)

    return classmethod(method)


def _folder_of(name: str) -> Path | None:
    """Where a pretrained model lies on this machine, given as a folder or as a Hub id."""
    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(name, local_files_only=True))
        except (OSError, ValueError):  # not in the cache, or no Hub id at all
            return None
    return folder if (folder / "config.json").is_file() else None


def _read(model: Any, files: list[Path], prefix: str, loading: _Loading, device: str, dtype: torch.dtype) -> None:
    """Gives ``model`` those of its missing tensors that the files hold, under their names there behind ``prefix``."""
    for file in files:
        with safe_open(file, framework="pt") as opened:
            keys = [key for key in opened.keys() if prefix + key in loading.missing]  # noqa: SIM118
        for key in keys:
            with safe_open(file, framework="pt") as opened:  # mapped again, or else pages that were read would add up
                tensor: Tensor = opened.get_tensor(key)
                owner, _, leaf = (prefix + key).rpartition(".")
                module = model.get_submodule(owner)
                loading.missing.discard(prefix + key)
                if tensor.shape != getattr(module, leaf).shape:
                    loading.mismatched.append(prefix + key)
                    continue
                kind = dtype if tensor.is_floating_point() else None
                tensor = tensor.to(device, kind, copy=True)
            is_parameter = leaf in dict(module.named_parameters(recurse=False))
            setattr(module, leaf, nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor)


def _check_weights(path: Path, names: dict[str, list[str]]) -> None:
    """Raises AdapterError if there are names of wrong weights, by what is wrong with them."""
    for kind, need in WRONG.items():
        wrong = sorted(names[kind])
        if wrong:
            shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
            raise AdapterError(f"load: weights in {path} must be {need}, got {kind} {shown}")


def _frozen(model: Any, device: str) -> Any:
    model.to(device=device)
    model.eval()
    model.requires_grad_(False)
    return model
