"""Diffusion-CAM: for every word of a diffusion multimodal LLM's answer, a heat map over the image."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcam_fast.cli.demonstration import sample_image
    from dcam_fast.config import DEFAULT, PAPER, RELEASED, RefineConfig, profile
    from dcam_fast.environment import Environment, env
    from dcam_fast.explainer import Explainer
    from dcam_fast.explanation import Explanation
    from dcam_fast.ops.threads import get_num_threads, set_num_threads
    from dcam_fast.streaming import Step, Stream

__version__ = "0.1.0"
__all__ = [
    "DEFAULT",
    "PAPER",
    "RELEASED",
    "Environment",
    "Explainer",
    "Explanation",
    "RefineConfig",
    "Step",
    "Stream",
    "env",
    "get_num_threads",
    "profile",
    "sample_image",
    "set_num_threads",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())  # quiet unless the application asks

# Loaded on first use: `import dcam_fast` itself needs neither torch nor transformers.
_HOME = {
    "DEFAULT": "config",
    "PAPER": "config",
    "RELEASED": "config",
    "RefineConfig": "config",
    "profile": "config",
    "sample_image": "demo",
    "Environment": "environment",
    "env": "environment",
    "Explainer": "explainer",
    "Explanation": "explanation",
    "Step": "streaming",
    "Stream": "streaming",
    "get_num_threads": "ops.threads",
    "set_num_threads": "ops.threads",
}
_MODULES = ("config", "environment", "ops", "reference", "models", "attribution", "evaluation", "kernels")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"dcam_fast.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"dcam_fast.{name}")
    raise AttributeError(f"module 'dcam_fast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
