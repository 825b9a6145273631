"""The family that docs/adding-a-model.md builds works without changes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dcam_fast import Explainer, models
from dcam_fast.testing import check_adapter

PAGE = Path(__file__).parents[1] / "docs" / "adding-a-model.md"
CONFIG = {
    "model_type": "patchy",
    "words": ["<mask>", "what", "is", "there", "red", "ring", "a", "dog"],
    "width": 32,
    "layers": 3,
    "answer": 5,
}


def test_the_page_makes_a_sound_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = ModuleType("patchy")
    monkeypatch.setitem(sys.modules, "patchy", family)
    monkeypatch.setitem(models.FAMILIES, "patchy", "patchy")
    source = "\n\n".join(re.findall(r"``python\n(.*?)``", PAGE.read_text(), re.DOTALL))
    exec(compile(source, str(PAGE), "exec"), family.__dict__)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = family.Patchy(CONFIG["words"], CONFIG["width"], CONFIG["layers"], CONFIG["answer"])
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file(model.state_dict(), tmp_path / "model.safetensors")

    adapter = models.load(str(tmp_path))
    check_adapter(adapter)
    check_adapter(models.adapter_of(model, CONFIG["words"]))
    image = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    explainer = Explainer(adapter)
    assert explainer.explain(image, targets="all").raw_maps.shape == (5, 3, 4)
    given = explainer.explain(image, targets="all", answer="there is a red ring")
    assert [token.text for token in given.tokens] == ["there", "is", "a", "red", "ring"]
    assert [len(step.tokens) for step in explainer.stream(image)] == [1] * 5
    with pytest.raises(models.AdapterError, match="known words, got 'cat'"):
        explainer.explain(image, "what is cat")


def test_the_page_names_existing_files() -> None:
    root = PAGE.parents[1]
    for path in re.findall(r"`(dcam_fast/[\w/.]+\.py)`", PAGE.read_text()):
        assert (root / path).is_file(), path
