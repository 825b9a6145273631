"""Grad-CAM (Selvaraju et al. 2017) at a word's own logit, and as the Diffusion-CAM paper runs it as its baseline."""

from __future__ import annotations

from dcam_fast.attribution.methods.gradient_cam import Method
from dcam_fast.config import RAW

GRAD_CAM = Method(objective="logit", aggregation="gradcam", profile=RAW)
GRAD_CAM_PAPER = Method(objective="contrast_sum", state="final", aggregation="gradcam_paper", blocks=(0,), profile=RAW)
