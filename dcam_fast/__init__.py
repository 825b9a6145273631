"""Diffusion-CAM: for every word of a diffusion multimodal LLM's answer, a heat map over the image."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from dcam_fast._version import __version__ as __version__

if TYPE_CHECKING:
    from dcam_fast.attribution.methods import METHODS, GradientCAM
    from dcam_fast.budget import BudgetError
    from dcam_fast.config import DEFAULT, PAPER, RELEASED, UNGUIDED, RefineConfig, profile
    from dcam_fast.contrast import Contrast
    from dcam_fast.environment import Environment, env
    from dcam_fast.explainer import Explainer
    from dcam_fast.explanation import Explanation
    from dcam_fast.images import load_image
    from dcam_fast.interruption import Cancelled, DeadlineExceeded, Interrupted
    from dcam_fast.many import ExplainRequest, RequestError
    from dcam_fast.models import AdapterError
    from dcam_fast.models.generation import Generation
    from dcam_fast.models.given import GivenAnswer
    from dcam_fast.ops.threads import get_num_threads, set_num_threads
    from dcam_fast.scenes import sample_image
    from dcam_fast.streaming import Step, Stream

# The module of each public name, loaded on first use: `import dcam_fast` alone imports neither torch nor transformers.
_MODULE_OF = {
    "DEFAULT": "config",
    "METHODS": "attribution.methods",
    "PAPER": "config",
    "RELEASED": "config",
    "UNGUIDED": "config",
    "AdapterError": "models",
    "BudgetError": "budget",
    "Cancelled": "interruption",
    "Contrast": "contrast",
    "DeadlineExceeded": "interruption",
    "Environment": "environment",
    "ExplainRequest": "many",
    "Explainer": "explainer",
    "Explanation": "explanation",
    "Generation": "models.generation",
    "GivenAnswer": "models.given",
    "GradientCAM": "attribution.methods",
    "Interrupted": "interruption",
    "RefineConfig": "config",
    "RequestError": "many",
    "Step": "streaming",
    "Stream": "streaming",
    "env": "environment",
    "get_num_threads": "ops.threads",
    "load_image": "images",
    "profile": "config",
    "sample_image": "scenes",
    "set_num_threads": "ops.threads",
}
_MODULES = ("attribution", "config", "evaluation", "models", "ops", "scenes", "testing")
__all__ = [
    "DEFAULT",
    "METHODS",
    "PAPER",
    "RELEASED",
    "UNGUIDED",
    "AdapterError",
    "BudgetError",
    "Cancelled",
    "Contrast",
    "DeadlineExceeded",
    "Environment",
    "ExplainRequest",
    "Explainer",
    "Explanation",
    "Generation",
    "GivenAnswer",
    "GradientCAM",
    "Interrupted",
    "RefineConfig",
    "RequestError",
    "Step",
    "Stream",
    "env",
    "get_num_threads",
    "load_image",
    "profile",
    "sample_image",
    "set_num_threads",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())  # no output unless the application configures logging


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"dcam_fast.{_MODULE_OF[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"dcam_fast.{name}")
    raise AttributeError(f"module 'dcam_fast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES, "__version__"})
