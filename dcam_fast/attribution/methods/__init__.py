"""The methods: one file for each kind, their settings by name in `presets`."""

from dcam_fast.attribution.methods.gradient_cam import Method
from dcam_fast.attribution.methods.presets import METHODS, method_named
from dcam_fast.attribution.methods.protocol import Attribution

__all__ = ["METHODS", "Attribution", "Method", "method_named"]
