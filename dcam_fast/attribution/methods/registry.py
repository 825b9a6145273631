"""The methods by name, and maps by several of them that share their passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from dcam_fast.attribution.methods.activation import Activation
from dcam_fast.attribution.methods.attention_rollout import AttentionRollout
from dcam_fast.attribution.methods.grad_cam import GRAD_CAM, GRAD_CAM_PAPER
from dcam_fast.attribution.methods.gradient_cam import DIFFUSION_CAM, PUBLISHED, Method, maps_of_words
from dcam_fast.attribution.methods.hires_cam import HIRESCAM
from dcam_fast.attribution.methods.layer_cam import LAYERCAM
from dcam_fast.attribution.methods.llava_cam import LLAVA_CAM, LLAVA_CAM_SMOOTH
from dcam_fast.attribution.methods.protocol import Attribution
from dcam_fast.attribution.methods.random import Random
from dcam_fast.attribution.methods.tam import TAM
from dcam_fast.config import RAW
from dcam_fast.models.adapter import Adapter, ImageView, Inputs, Trajectory, Word

METHODS: dict[str, Attribution] = {
    "default": DIFFUSION_CAM,
    "published": PUBLISHED,
    "grad_cam": GRAD_CAM,
    "grad_cam_paper": GRAD_CAM_PAPER,
    "llava_cam": LLAVA_CAM,
    "llava_cam_smooth": LLAVA_CAM_SMOOTH,
    "tam": TAM,
    "layercam": LAYERCAM,
    "hirescam": HIRESCAM,
    "attention_rollout": AttentionRollout(),
    "activation": Activation(),
    "random": Random(),
}


def method_named(method: str | Attribution) -> Attribution:
    """The method itself, or the one of that name; ValueError for a name there is none of, TypeError for no method."""
    need = f"explain: method must be one of {', '.join(METHODS)} or a Method"
    if isinstance(method, str):
        if method not in METHODS:
            raise ValueError(f"{need}, got {method!r}")
        return METHODS[method]
    if isinstance(method, type) or not is_dataclass(method) or not hasattr(method, "raw_maps"):
        raise TypeError(f"{need}, got {method!r}")
    return method


def describe(method: Attribution) -> dict[str, object]:
    """A method's kind and settings, its profile left out, as what JSON can hold."""
    settings = {field.name: getattr(method, field.name) for field in fields(method)}  # type: ignore[arg-type]
    del settings["profile"]
    plain = {n: v if isinstance(v, str | int | float | tuple | None) else repr(v) for n, v in settings.items()}
    return {"kind": type(method).__name__, **plain}


def all_raw_maps(
    methods: Mapping[str, Attribution],
    adapter: Adapter[Any],
    inputs: Inputs,
    trajectory: Trajectory,
    words: Sequence[Word],
    view: ImageView,
) -> dict[str, Tensor]:
    """Raw maps ``[len(words), h, w]`` by every method, those that need the same activations and gradients from the
    same passes."""
    groups: dict[Method, list[str]] = {}
    maps = {}
    for name, method in methods.items():
        if isinstance(method, Method):
            same_passes = replace(method, aggregation="", profile=RAW, blocks=method.blocks or adapter.default_blocks)
            groups.setdefault(same_passes, []).append(name)
        else:
            maps[name] = method.raw_maps(adapter, inputs, trajectory, words, view)
    for names in groups.values():
        sharing = [method for name in names if isinstance(method := methods[name], Method)]
        maps |= zip(names, maps_of_words(adapter, inputs, trajectory, words, sharing, view), strict=True)
    return {name: maps[name] for name in methods}
