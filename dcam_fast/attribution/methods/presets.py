"""The methods by name: settings of Diffusion-CAM's family, and the baselines it is compared with."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Final

from dcam_fast.attribution.methods.activation import Activation
from dcam_fast.attribution.methods.attention_rollout import AttentionRollout
from dcam_fast.attribution.methods.gradient_cam import Method
from dcam_fast.attribution.methods.llava_cam import LlavaCam
from dcam_fast.attribution.methods.protocol import Attribution
from dcam_fast.attribution.methods.random import Random
from dcam_fast.attribution.methods.tam import Tam
from dcam_fast.config import RAW, RELEASED

# Diffusion-CAM (arXiv 2604.11005) with this package's settings, and with the paper's.
DIFFUSION_CAM: Final = Method()
PUBLISHED: Final = Method(objective="contrast_sum", state="final", aggregation="pooled", blocks=(0,), profile=RELEASED)

METHODS: Final[dict[str, Attribution]] = {
    "default": DIFFUSION_CAM,
    "published": PUBLISHED,
    # Grad-CAM (Selvaraju et al. 2017) at a word's own logit, and as the paper runs it as its baseline
    "grad_cam": Method(objective="logit", aggregation="gradcam", profile=RAW),
    "grad_cam_paper": Method(
        objective="contrast_sum", state="final", aggregation="gradcam_paper", blocks=(0,), profile=RAW
    ),
    "llava_cam": LlavaCam(),
    "llava_cam_smooth": LlavaCam(runs=50),
    "tam": Tam(),
    # LayerCAM (Jiang et al. 2021): positive gradients weight positive activations cell by cell
    "layercam": Method(objective="logit", aggregation="layercam", profile=RAW),
    # HiResCAM (Draelos and Carin 2020): activations times gradients, summed with their signs over the channels
    "hirescam": Method(objective="logit", aggregation="hirescam", profile=RAW),
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
