"""From hidden states to raw maps: objectives, answer states, passes and methods."""

from dcam_fast.attribution.answer import Answer
from dcam_fast.attribution.methods import METHODS, AttributionMethod, GradientCAM
from dcam_fast.attribution.resources import Resources

__all__ = ["METHODS", "Answer", "AttributionMethod", "GradientCAM", "Resources"]
