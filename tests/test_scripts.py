"""Answers in any script: which characters are a target's, on the page and in pictures."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from dcam_fast.explained_answer import Target, Token
from dcam_fast.explanation import Explanation
from dcam_fast.output import fonts
from dcam_fast.output import pictures as rendering


def explanation_of(
    answer: str, texts: list[str], targets: dict[tuple[int, ...], str], steps: tuple[int, ...] = ()
) -> Explanation:
    """An explanation of a gray picture; `targets` are texts by their positions."""
    maps = torch.zeros(len(targets), 3, 5)
    return Explanation(
        image=np.full((30, 50, 3), 128, np.uint8),
        prompt="what is there ?",
        answer=answer,
        tokens=tuple(Token(text, i, i, steps[i] if steps else 0) for i, text in enumerate(texts)),
        targets=tuple(Target(text, positions, 1, 0, 1) for positions, text in targets.items()),
        maps=maps,
        raw_maps=maps,
        boxes=torch.tensor([[[10.0 * x, 10.0 * y, 10.0 * x + 10, 10.0 * y + 10] for x in range(5)] for y in range(3)]),
        provenance={},
    )


def words_of(text: str, *targets: int) -> Explanation:
    """An explanation of words that are tokens."""
    words = text.split()
    return explanation_of(text, words, {(i,): words[i] for i in targets})


def test_pieces_of_characters_that_tokens_share() -> None:
    """A piece has all the tokens of its characters: the target of any, and the step of the last."""
    texts = ["\ufffd", "環", "\ufffd", "\ufffd", "红"]
    targets = {(2, 3, 4): "红", (0,): "環", (1,): "環"}
    explanation = explanation_of("環红", texts, targets, steps=(5, 1, 0, 2, 3))
    assert [(p.text, p.target, p.token.step) for p in explanation.pieces() if p.token] == [("環", 1, 5), ("红", 0, 3)]
    assert explanation.names == ("红", "環", "環 (2)")


def test_a_phrase_is_found_by_its_words() -> None:
    texts = ["red", ",", "blue", "ring", "red", "Blue"]
    targets = {(4, 5): "red Blue", (0, 1, 2): "red, blue"}
    explanation = explanation_of("red, blue ring red Blue", texts, targets)
    assert explanation.names == ("red Blue#2", "red, blue")
    assert [explanation.find(name) for name in ("RED blue#2", "red, blue", "red blue")] == [0, 1, 1]


def test_fonts_are_chosen_by_character(monkeypatch: pytest.MonkeyPatch) -> None:
    """A character that the base font lacks is written in the first font that has it, and else is said to be missing."""
    base, bold = fonts.base_font(bold=False), fonts.base_font(bold=True)
    have = {
        base: set("ab\u03b1\ufffd"),
        bold: set("ab\ufffd"),
        "/fonts/one.ttf": set("环"),
        "/fonts/two.ttf": set("环红"),
    }
    monkeypatch.setattr(fonts, "_found", {})
    monkeypatch.setattr(fonts, "_system_fonts", lambda: tuple(have)[2:])
    monkeypatch.setattr(fonts, "_glyphs_in", lambda path, characters: have[path] & set(characters))
    monkeypatch.setattr(fonts, "_load", lambda path, size: path)
    assert fonts.missing("a环 红क\u093fक\u200d") == ["क", "\u093f"]
    runs = fonts.Font(12)._runs("a 环 红b क\u093f")
    assert runs == [("a ", base), ("环 ", "/fonts/one.ttf"), ("红", "/fonts/two.ttf"), ("b \ufffd", base)]
    assert fonts.Font(12, bold=True)._runs("ab\u03b1") == [("ab", bold), ("\u03b1", base)], "the bold font has no alpha"


def test_pictures_list_missing_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = words_of("a red ring", 1)
    assert rendering.glyph_note([plain]) == ""
    monkeypatch.setattr(fonts, "_found", {})
    monkeypatch.setattr(fonts, "_system_fonts", lambda: ())
    foreign = words_of("a 红 ring 色 的 圆", 1)
    note = rendering.glyph_note([plain, foreign])
    assert note == "\ufffd: no font here has U+7EA2, U+8272, U+7684 and 1 more; the page shows them"
    assert foreign.contact_sheet().height > words_of("a b ring c d e", 1).contact_sheet().height
    assert rendering.glyph_note([words_of("شكل أحمر", 1)]) == "", "the base font has Arabic"


@pytest.mark.parametrize("word", ["环", "नमस्ते", "أحمر", "👨‍👩‍👧", "👍🏽", "データ", "café"])
def test_words_of_any_script_are_marked_on_the_page(word: str) -> None:
    """A byte a token: the page marks the whole word and nothing else, in the direction of its script."""
    texts: list[str] = []
    for character in word:
        texts += ["\ufffd"] * (len(character.encode()) - 1) + [character]
    positions = tuple(range(1, len(texts) + 1))
    one = explanation_of(f"a {word} b", ["a", *texts, " b"], {positions: word})
    marked = "".join(piece.text for piece in one.pieces() if piece.target == 0)
    assert marked == word
    assert one.names == (word,)
    shown = one.to_html()
    assert 'id="answer" dir="auto"' in shown
    data = json.loads(re.search(r'id="data">(.*?)</script>', shown)[1])  # type: ignore[index]
    assert "".join(text for text, _, index in data["record"]["pieces"] if index == 0) == word
