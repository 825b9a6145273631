"""Attribution methods: one file for each class; `presets` holds their settings by name."""

from dcam_fast.attribution.methods.gradient_cam import GradientCAM
from dcam_fast.attribution.methods.presets import METHODS, method_named
from dcam_fast.attribution.methods.protocol import AttributionMethod

__all__ = ["METHODS", "AttributionMethod", "GradientCAM", "method_named"]
