"""Dimple, Dream-VL, LaViDa and LLaDA-V in memory, on their stubs, and the options of loading them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checks
import llava_stubs
import pytest
import test_dream
from dream_checkpoint import make_checkpoint
from llava_subjects import LENGTH, MASK, make_tokenizer
from torch import nn

from dcam_fast import models
from dcam_fast.models import AdapterError

any_release = test_dream._any_release  # a fixture, for this module too


@pytest.fixture(scope="module", params=["dimple", "dream-vl"])
def dream(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder, stubs = tmp_path_factory.mktemp("checkpoint"), test_dream.STAND_INS
    make_checkpoint(request.param, folder, stubs / "dream", stubs / request.param.replace("-", "_"))
    return request.param, folder


@pytest.fixture(scope="module", params=list(llava_stubs.CLASSES))
def llava(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    with llava_stubs.package(request.param):
        folder, model = tmp_path_factory.mktemp("checkpoint"), llava_stubs.make_model(request.param)
        model.save_pretrained(folder)
        make_tokenizer(model.config.vocab_size).save_pretrained(folder)
        yield request.param, folder


def test_dream_in_memory(dream: tuple[str, Path], check_left_alone: Any) -> None:
    options: dict[str, Any] = {"answer_length": LENGTH}
    plain = models.load(dream[1], trust_remote_code=True, **options)
    other: Any = models.load(dream[1], trust_remote_code=True)
    check_left_alone(plain, other.model, other.processor, checks.PROMPT, **options)


def test_what_dream_refuses(dream: tuple[str, Path]) -> None:
    family = dream[0]
    adapter: Any = models.load(dream[1], trust_remote_code=True)
    model, processor = adapter.model, adapter.processor
    for given, options, message in (
        (None, {}, f"{family}: processor must be the checkpoint's, got NoneType"),
        (processor.tokenizer, {}, f"{family}: processor must be the checkpoint's, got .*Tokenizer"),
        (
            processor,
            {"view": "base"},
            f"view must be left out for {family}, whose options are attention, answer_length",
        ),
        (processor, {"attention": "causal"}, f"{family}: attention must be .*joint, got 'causal'"),
    ):
        with pytest.raises(AdapterError, match=message):
            models.adapter_of(model, given, **options)
    part: Any = nn.Linear(2, 2)
    part.config = model.config
    with pytest.raises(AdapterError, match=f"{family}: model must have model, lm_head, visual, .*, got Linear without"):
        models.adapter_of(part, processor)
    with pytest.raises(AdapterError, match="vision_tower must be left out for"):
        models.load(dream[1], vision_tower="owner/tower", trust_remote_code=True)


def test_llava_in_memory(llava: tuple[str, Path], check_left_alone: Any) -> None:
    family, folder = llava
    options = {"answer_length": LENGTH}
    plain: Any = models.load(folder, **options)
    if family == "lavida":  # the stub's vocabulary is small
        plain.mask_token = MASK
        options["mask_token"] = MASK
    check_left_alone(plain, llava_stubs.make_model(family), plain.tokenizer, checks.PROMPT, **options)


def test_options_of_llava(llava: tuple[str, Path]) -> None:
    adapter: Any = models.load(llava[1], answer_length=LENGTH, view="base")
    assert (adapter.answer_length, adapter.view) == (LENGTH, "base")
    with pytest.raises(AdapterError, match="view must be grid or base, got 'tiles'"):
        models.load(llava[1], view="tiles")
    for given, options, message in (
        (None, {}, "processor must be the checkpoint's tokenizer, got NoneType"),
        (
            adapter.tokenizer,
            {"threshold": 0.5},
            "threshold must be left out for llava_llada, whose",
        ),
    ):
        with pytest.raises(AdapterError, match=message):
            models.adapter_of(adapter.model, given, **options)


def test_another_tower(llava: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("llava.model.language_model.llava_llada")
    model_class = getattr(module, llava_stubs.CLASSES[llava[0]][1])
    build, towers = model_class.__init__, []

    def watched(self: Any, config: Any) -> None:
        towers.append(config.mm_vision_tower)
        build(self, config)

    monkeypatch.setattr(model_class, "__init__", watched)
    models.load(llava[1], vision_tower="owner/tower")
    assert towers == ["owner/tower"]
