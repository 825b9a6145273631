"""Content words and phrases."""

from __future__ import annotations

import pytest

from dcam_fast.models.adapter import Word
from dcam_fast.words import find_phrase, is_content

WORDS = tuple(Word(text, (i,)) for i, text in enumerate(["a", "red", "ring", ",", "a", "blue", "Ring", "on", "it"]))


@pytest.mark.parametrize(("text", "content"), [("ring", True), ("The", False), (",", False), ("2", True), ("", False)])
def test_content(text: str, content: bool) -> None:
    assert is_content(text) is content


@pytest.mark.parametrize(
    ("phrase", "positions"),
    [
        ("ring", (2,)),
        ("ring#2", (6,)),
        ("Blue ring", (5, 6)),
        ("ring#3", None),
        ("ring#0", None),
        ("green", None),
        ("", None),
        ("#", None),
    ],
)
def test_phrases(phrase: str, positions: tuple[int, ...] | None) -> None:
    assert find_phrase(phrase, WORDS) == positions
