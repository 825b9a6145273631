"""LaViDa and LLaDA-V on this project's stubs of the authors' packages."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from llava_subjects import MASK, VOCABULARY, shake

from dcam_fast.models.checkpoint import Releases
from dcam_fast.models.llava.adapter import LlavaAdapter

HERE = Path(__file__).parent / "stubs"
CANVASES = [[384, 768], [768, 384], [768, 768], [1152, 384], [384, 1152]]
CLASSES = {
    "lavida": ("LlavaLladaConfig", "LlavaLladaForMaskedDiffusion"),
    "lladav": ("LlavaLLaDAConfig", "LlavaLLaDAModelLM"),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "lavida": {"vocab_size": len(VOCABULARY), "image_aspect_ratio": "anyres", "image_grid_pinpoints": CANVASES},
    "lladav": {"image_aspect_ratio": "anyres_max_4", "image_grid_pinpoints": "(1x1),...,(6x6)"},
}


@contextmanager
def package(family: str) -> Iterator[None]:
    """The stub is the package `llava`, in whatever transformers is there."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name.split(".")[0] in ("llava", "llava_parts")]:
            patch.delitem(sys.modules, name)
        patch.setattr(sys, "path", [str(HERE / family), str(HERE / "llava_shared"), *sys.path])
        patch.setattr(LlavaAdapter, "transformers", Releases("4.46", "9", "any"))
        importlib.invalidate_caches()
        yield
        for name in [name for name in sys.modules if name.split(".")[0] in ("llava", "llava_parts")]:
            del sys.modules[name]


def make_model(family: str) -> Any:
    module = importlib.import_module("llava.model.language_model.llava_llada")
    config_class, model_class = (getattr(module, name) for name in CLASSES[family])
    config = config_class(mm_patch_merge_type="spatial_unpad", **OPTIONS[family])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(config)
    shake(model)
    with torch.no_grad():  # so that attention is sharp, and guesses differ from position to position
        for name, parameter in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                parameter *= 8
    if family == "lavida":
        with torch.no_grad():  # so that no guess is a mask, which would stay one
            model.get_model().transformer.ff_out.weight[MASK] = 0
    return model


@pytest.fixture(scope="module", params=list(CLASSES))
def each_family(request: pytest.FixtureRequest) -> Iterator[str]:
    with package(request.param):
        yield request.param
