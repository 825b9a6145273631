"""Words, content words and phrases."""

from __future__ import annotations

import pytest

from dcam_fast.models.adapter import Word
from dcam_fast.words import align, find_phrase, is_content, split_parts, split_words, words_in

WORDS = tuple(Word(text, (i,)) for i, text in enumerate(["a", "red", "ring", ",", "a", "blue", "Ring", "on", "it"]))


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("ring", True), ("The", False), (",", False), ("2", True), ("", False), ("t-shirt", True), ("“", False),
        ("don\u2019t", False), ("環", True), ("🐶", True), ("\u0650", False),
    ],
)  # fmt: skip
def test_content(text: str, content: bool) -> None:
    assert is_content(text) is content


@pytest.mark.parametrize(
    ("phrase", "positions"),
    [
        ("ring", (2,)),
        ("ring#2", (6,)),
        ("ring#1", (2,)),
        ("Blue ring", (5, 6)),
        ("ring a", (2, 4)),  # across a comma
        ("ring, a", (2, 3, 4)),
        ("ring; a", (2, 4)),
        ("\uff32\uff29\uff2e\uff27", (2,)),
        ('"ring"', (2,)),
        (",", (3,)),
        (",#2", None),
        ("ring#3", None),
        ("ring#0", None),
        ("green", None),
        ("", None),
        ("#", None),
        ("#2", None),
        (f"ring#{'9' * 5000}", None),
    ],
)
def test_phrases(phrase: str, positions: tuple[int, ...] | None) -> None:
    assert find_phrase(phrase, WORDS) == positions


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("says \"stop\" (red) **bold** «oui» “so” 'small'", ["says", "stop", "red", "bold", "oui", "so", "small"]),
        ("a t-shirt, black-and-white, non\u2011English", ["a", "t-shirt", "black-and-white", "non\u2011English"]),
        ("don't don\u2019t dog's dogs' rock'n'roll", ["don't", "don\u2019t", "dog's", "dogs", "rock'n'roll"]),
        ("3.5 1,000 10:30, 2. 5th 27x27", ["3.5", "1,000", "10:30", "2", "5th", "27x27"]),
        ("C++ C# #2 $5 50% e.g. U.S.A red/ball", ["C++", "C#", "2", "5", "50", "e.g.", "U.S.A", "red", "ball"]),
        ("wait... so… em—dash _x_", ["wait", "so", "em", "dash", "x"]),
        ("नमस्ते العربية السَّلام، ไทย", ["नमस्ते", "العربية", "السَّلام", "ไทย"]),
        ("cafe\u0301 می‌خواهم ok\u200b", ["cafe\u0301", "می‌خواهم", "ok"]),
        ("👨‍👩‍👧 👍🏽🇩🇪🇫🇷 ❤️", ["👨‍👩‍👧", "👍🏽", "🇩🇪", "🇫🇷", "❤️"]),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert split_words(text) == words


def test_characters_of_unspaced_scripts_are_parts() -> None:
    parts = [text[start:end] for text in ["红色的圆。データ"] for start, end in split_parts(text)]
    assert parts == ["红", "色", "的", "圆", "。", "デ", "ー", "タ"]


def test_words_share_tokens_and_have_parts() -> None:
    # tokens: |"black|-and|-white"| (New York)|!|
    text = '"black-and-white" (New York)!'
    spans = [(0, 6), (6, 10), (10, 17), (17, 28), (28, 29), (0, 0)]
    words = words_in(text, spans)
    shown = [(word.text, word.positions) for word in words]
    assert shown == [
        ('"', (0,)), ("black-and-white", (0, 1, 2)), ('"', (2,)), ("(", (3,)), ("New", (3,)), ("York", (3,)),
        (")", (3,)), ("!", (4,)),
    ]  # fmt: skip
    assert find_phrase("white", words) == (2,)
    assert find_phrase("BLACK-and", words) == (0, 1)
    assert find_phrase("black and white", words) == (0, 1, 2)
    assert find_phrase("white new york", words) == (2, 3)
    assert find_phrase("blackandwhite", words) is None


def test_unspaced_words_end_where_tokens_do() -> None:
    words = words_in("红色的圆", [(0, 2), (2, 3), (3, 4), (3, 4)])
    assert [(word.text, word.positions) for word in words] == [("红色", (0,)), ("的", (1,)), ("圆", (2, 3))]
    assert find_phrase("色的圆", words) == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("text", "pieces", "spans"),
    [
        ("a ring", ["a", " ring"], [(0, 1), (2, 6)]),
        ("環 x", ["\ufffd", "\ufffd", "環", " x"], [(0, 1), (0, 1), (0, 1), (2, 3)]),
        ("環x環", ["\ufffd", "環", "x\ufffd", "環"], [(0, 1), (0, 1), (1, 3), (2, 3)]),
        ("a 環 b", ["a", "\ufffd", "\ufffd", "b"], [(0, 1), (2, 3), (2, 3), (4, 5)]),
        ("a b", ["a", "<end>", "b", "c"], [(0, 1), (0, 0), (2, 3), (0, 0)]),
        ("a環", ["a", "\ufffd"], [(0, 1), (1, 2)]),
        ("", ["\ufffd", ""], [(0, 0), (0, 0)]),
    ],
)
def test_alignment(text: str, pieces: list[str], spans: list[tuple[int, int]]) -> None:
    assert align(text, pieces) == spans
