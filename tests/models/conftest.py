"""The tiny DiffusionGemma that these tests share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def adapter() -> Any:
    import gemma

    return gemma.make_adapter()
