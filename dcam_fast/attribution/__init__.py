"""From a model's hidden states to raw maps: objectives, answer states, the pass itself, and the methods by name."""

from dcam_fast.attribution.methods.gradient_cam import Method
from dcam_fast.attribution.methods.protocol import Attribution
from dcam_fast.attribution.methods.registry import METHODS
from dcam_fast.attribution.resources import Resources

__all__ = ["METHODS", "Attribution", "Method", "Resources"]
