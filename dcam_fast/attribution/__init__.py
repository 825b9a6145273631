"""From a model's hidden states to raw maps: objectives, answer states, the pass itself, and the methods by name."""

from dcam_fast.attribution.methods import METHODS, AttributionMethod, GradientCAM
from dcam_fast.attribution.resources import Resources

__all__ = ["METHODS", "AttributionMethod", "GradientCAM", "Resources"]
