"""For all methods: their description, and maps by several methods that share passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

from torch import Tensor

from dcam_fast.attribution.answer import Answer
from dcam_fast.attribution.methods.gradient_cam import GradientCAM, maps_of_words
from dcam_fast.attribution.methods.protocol import AttributionMethod
from dcam_fast.config import RAW
from dcam_fast.models.adapter import Word


def describe(method: AttributionMethod) -> dict[str, object]:
    """Class and settings of a method without its profile, as JSON values."""
    settings = {field.name: getattr(method, field.name) for field in fields(method)}  # type: ignore[arg-type]
    del settings["profile"]
    plain = {n: v if isinstance(v, str | int | float | tuple | None) else repr(v) for n, v in settings.items()}
    return {"kind": type(method).__name__, **plain}


def all_raw_maps(methods: Mapping[str, AttributionMethod], answer: Answer, words: Sequence[Word]) -> dict[str, Tensor]:
    """Raw maps `[len(words), h, w]` by every method. Methods that need the same activations and gradients share their
    passes."""
    groups: dict[GradientCAM, list[str]] = {}
    maps = {}
    for name, method in methods.items():
        if isinstance(method, GradientCAM):
            layers = answer.layers(method.target_layers)
            same_passes = replace(method, aggregation="pooled", profile=RAW, target_layers=layers)
            groups.setdefault(same_passes, []).append(name)
        else:
            maps[name] = method.raw_maps(answer, words)
    for names in groups.values():
        sharing = [method for name in names if isinstance(method := methods[name], GradientCAM)]
        maps |= zip(names, maps_of_words(answer, words, sharing), strict=True)
    return {name: maps[name] for name in methods}
