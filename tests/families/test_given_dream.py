"""Given answers of Dimple and Dream-VL, on the stubs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checks
import pytest
import torch
import transformers
from dream import LENGTH
from dream_checkpoint import make_checkpoint

from dcam_fast import Explainer, Generation, models
from dcam_fast.models.checkpoint import Releases
from dcam_fast.models.dream.dimple import DimpleAdapter
from dcam_fast.models.dream.dream_vl import DreamVLAdapter

STUBS = Path(__file__).parent / "stubs"
IMAGE = checks.picture(60, 90)


def code_of_checkpoints() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]


@pytest.fixture(scope="module", params=["dimple prefix", "dimple joint", "dream-vl joint"])
def adapter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    family, attention = request.param.split()
    folder = tmp_path_factory.mktemp("checkpoint") / f"tiny-{family}"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in code_of_checkpoints():  # of another cache
            patch.delitem(sys.modules, name)
        patch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setattr(sys, "path", list(sys.path))
        for known in (DimpleAdapter, DreamVLAdapter):
            patch.setattr(known, "transformers", Releases("4.46", "9", "any"))
        make_checkpoint(family, folder, STUBS / "dream", STUBS / family.replace("-", "_"))
        loaded: Any = models.load(str(folder), attention=attention, trust_remote_code=True)
        make: Any = type(loaded)
        yield make(loaded.model, loaded.processor, name=loaded.name, attention=attention, answer_length=LENGTH)
        for name in code_of_checkpoints():
            del sys.modules[name]


def test_given_answers(adapter: Any) -> None:
    checks.check_given(adapter, IMAGE, Generation(steps=4), "remask", "committed", "first", "final")


@pytest.mark.parametrize("text", ["a dog", "", "é \U0001f436"])
def test_a_text_is_completed(adapter: Any, text: str) -> None:
    ids = adapter.tokenizer(text, add_special_tokens=False)["input_ids"]
    explanation = Explainer(adapter).explain(IMAGE, checks.PROMPT, "all", answer=text)
    assert explanation.answer == text
    assert [token.id for token in explanation.tokens] == ids
    assert {token.step for token in explanation.tokens} <= {None}
    end, padding = adapter.tokenizer.eos_token_id, adapter.config.pad_token_id
    canvas = adapter.given(ids).tokens
    assert canvas.equal(torch.tensor([*ids, end, *[padding] * (LENGTH - len(ids) - 1)]))
