"""LayerCAM (Jiang et al. 2021): positive gradients weight positive activations cell by cell."""

from __future__ import annotations

from dcam_fast.attribution.methods.gradient_cam import Method
from dcam_fast.config import RAW

LAYERCAM = Method(objective="logit", aggregation="layercam", profile=RAW)
