"""HiResCAM (Draelos and Carin 2020): activations times gradients, summed with their signs over the channels."""

from __future__ import annotations

from dcam_fast.attribution.methods.gradient_cam import Method
from dcam_fast.config import RAW

HIRESCAM = Method(objective="logit", aggregation="hirescam", profile=RAW)
