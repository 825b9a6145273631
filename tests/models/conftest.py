"""The tiny DiffusionGemma that these tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers.models.diffusion_gemma", reason="this transformers is older than the family")
sys.path.insert(0, str(Path(__file__).parent))

import gemma

from dcam_fast.models.diffusion_gemma import DiffusionGemmaAdapter


@pytest.fixture(scope="session")
def adapter() -> DiffusionGemmaAdapter:
    return gemma.make_adapter()
