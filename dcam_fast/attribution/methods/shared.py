"""What holds for any method: its description, and maps by several methods that share their passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from torch import Tensor

from dcam_fast.attribution.methods.gradient_cam import GradientCAM, maps_of_words
from dcam_fast.attribution.methods.protocol import AttributionMethod
from dcam_fast.config import RAW
from dcam_fast.models.adapter import Adapter, ImageView, Inputs, Trajectory, Word


def describe(method: AttributionMethod) -> dict[str, object]:
    """A method's kind and settings, its profile left out, as what JSON can hold."""
    settings = {field.name: getattr(method, field.name) for field in fields(method)}  # type: ignore[arg-type]
    del settings["profile"]
    plain = {n: v if isinstance(v, str | int | float | tuple | None) else repr(v) for n, v in settings.items()}
    return {"kind": type(method).__name__, **plain}


def all_raw_maps(
    methods: Mapping[str, AttributionMethod],
    adapter: Adapter[Any],
    inputs: Inputs,
    trajectory: Trajectory,
    words: Sequence[Word],
    view: ImageView,
) -> dict[str, Tensor]:
    """Raw maps ``[len(words), h, w]`` by every method, those that need the same activations and gradients from the
    same passes."""
    groups: dict[GradientCAM, list[str]] = {}
    maps = {}
    for name, method in methods.items():
        if isinstance(method, GradientCAM):
            same_passes = replace(
                method, aggregation="", profile=RAW, target_layers=method.target_layers or adapter.default_layers
            )
            groups.setdefault(same_passes, []).append(name)
        else:
            maps[name] = method.raw_maps(adapter, inputs, trajectory, words, view)
    for names in groups.values():
        sharing = [method for name in names if isinstance(method := methods[name], GradientCAM)]
        maps |= zip(names, maps_of_words(adapter, inputs, trajectory, words, sharing, view), strict=True)
    return {name: maps[name] for name in methods}
