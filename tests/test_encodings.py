"""The cache of encodings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dcam_fast import Explainer
from dcam_fast.encodings import EncodingCache
from dcam_fast.models.generation import Generation

FIRST = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
SECOND = 255 - FIRST
PROMPT = "describe the image"


class Adapter:
    """Counts what it encodes."""

    def __init__(self) -> None:
        self.encoded: list[tuple[tuple[int, ...], str]] = []

    def encode(self, image: np.ndarray, prompt: str) -> Any:
        self.encoded.append((image.shape, prompt))
        return object()


def test_the_last_results_are_kept() -> None:
    adapter = Adapter()
    cache = EncodingCache(adapter, 2)  # type: ignore[arg-type]
    first, second = cache.encode(FIRST, PROMPT), cache.encode(SECOND, PROMPT)
    assert cache.encode(FIRST.copy(), PROMPT) is first
    third = cache.encode(FIRST, "what is there ?")
    assert cache.encode(FIRST, PROMPT) is first, "it was used after the second"
    assert cache.encode(FIRST, "what is there ?") is third
    assert len(adapter.encoded) == 3
    assert cache.encode(SECOND, PROMPT) is not second
    assert len(adapter.encoded) == 4


def test_images_of_the_same_bytes_and_another_shape_are_different() -> None:
    adapter = Adapter()
    cache = EncodingCache(adapter, 2)  # type: ignore[arg-type]
    cache.encode(FIRST, PROMPT)
    cache.encode(FIRST.reshape(96, 64, 3), PROMPT)
    assert [shape for shape, _ in adapter.encoded] == [(64, 96, 3), (96, 64, 3)]


def test_nothing_is_kept_unless_told() -> None:
    adapter = Adapter()
    cache = EncodingCache(adapter, 0)  # type: ignore[arg-type]
    assert cache.encode(FIRST, PROMPT) is not cache.encode(FIRST, PROMPT)


def test_an_image_that_cannot_be_encoded_is_not_kept() -> None:
    explainer = Explainer(Explainer.from_pretrained("tiny").adapter, encodings=1)
    for _ in range(2):
        with pytest.raises(ValueError, match="prompt must be"):
            explainer.encode(FIRST, "an elephant")


def test_maps_do_not_depend_on_the_cache() -> None:
    plain = Explainer.from_pretrained("tiny")
    cached = Explainer(plain.adapter, encodings=2)
    for _ in range(2):
        for image in (FIRST, SECOND):
            options: dict[str, Any] = {"targets": [0, 1], "generation": Generation(steps=2)}
            assert torch.equal(cached.explain(image, **options).maps, plain.explain(image, **options).maps)


@pytest.mark.parametrize(("size", "error"), [(-1, ValueError), (1.0, TypeError), (True, TypeError), (None, TypeError)])
def test_wrong_sizes(size: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="Explainer: encodings must be a whole number from 0, got"):
        Explainer(Adapter(), encodings=size)  # type: ignore[arg-type]
