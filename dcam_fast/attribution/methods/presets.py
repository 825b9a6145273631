"""The methods by name: Diffusion-CAM and the baselines it is compared with."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any, Final

from dcam_fast.attribution.methods.activation import Activation
from dcam_fast.attribution.methods.attention_rollout import AttentionRollout
from dcam_fast.attribution.methods.gradient_cam import GradientCAM
from dcam_fast.attribution.methods.llava_cam import LlavaCam
from dcam_fast.attribution.methods.protocol import AttributionMethod
from dcam_fast.attribution.methods.random import Random
from dcam_fast.attribution.methods.tam import Tam
from dcam_fast.config import RAW, RELEASED
from dcam_fast.models.adapter import Adapter

# Diffusion-CAM (arXiv 2604.11005) with this package's settings, and as published
DIFFUSION_CAM: Final = GradientCAM()
PUBLISHED: Final = GradientCAM(
    objective="contrast_sum", state="final", aggregation="pooled", target_layers=(0,), profile=RELEASED
)

METHODS: Final[dict[str, AttributionMethod]] = {
    "default": DIFFUSION_CAM,
    "published": PUBLISHED,
    # Grad-CAM (Selvaraju et al. 2017) at a word's own logit, and as the paper runs it as its baseline
    "grad_cam": GradientCAM(objective="logit", aggregation="grad_cam", profile=RAW),
    "grad_cam_paper": GradientCAM(
        objective="contrast_sum", state="final", aggregation="grad_cam_paper", target_layers=(0,), profile=RAW
    ),
    "llava_cam": LlavaCam(),
    "llava_cam_smooth": LlavaCam(runs=50),
    "tam": Tam(),
    # LayerCAM (Jiang et al. 2021): positive gradients weight positive activations cell by cell
    "layer_cam": GradientCAM(objective="logit", aggregation="layer_cam", profile=RAW),
    # HiResCAM (Draelos and Carin 2020): activations times gradients, summed with their signs over the channels
    "hires_cam": GradientCAM(objective="logit", aggregation="hires_cam", profile=RAW),
    "attention_rollout": AttentionRollout(),
    "activation": Activation(),
    "random": Random(),
}
NEEDED: Final = ("target_layers", "profile", "claim", "raw_maps")  # of every method


def method_named(method: str | AttributionMethod) -> AttributionMethod:
    """A method by name, or the method itself.

    Raises:
        ValueError: for an unknown name.
        TypeError: for something that is not a method.
    """
    need = f"explain: method must be one of {', '.join(METHODS)} or an AttributionMethod"
    if isinstance(method, str):
        if method not in METHODS:
            raise ValueError(f"{need}, got {method!r}")
        return METHODS[method]
    if isinstance(method, type) or not is_dataclass(method) or not all(hasattr(method, name) for name in NEEDED):
        raise TypeError(f"{need}, got {method!r}")
    return method


def method_for(adapter: Adapter[Any], method: str | AttributionMethod) -> AttributionMethod:
    """A method as from `method_named`, whose target layers the model has.

    Raises:
        ValueError, TypeError: as `method_named`.
        AdapterError: for layers that it does not have.
    """
    known = method_named(method)
    if known.target_layers is not None:
        adapter.check_layers(known.target_layers)
    return known
