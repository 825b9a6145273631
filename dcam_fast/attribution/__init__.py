"""From a model's hidden states to raw maps: objectives, answer states, the pass itself, and the methods by name."""

from dcam_fast.attribution.diffusion_cam import METHODS, Method

__all__ = ["METHODS", "Method"]
