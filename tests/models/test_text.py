"""Words of pieces as byte-level and SentencePiece tokenizers write them."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dcam_fast.models.adapter import AdapterError
from dcam_fast.models.text import check_prompt, decode, pieces_of, spell, words_of
from dcam_fast.words import find_phrase


def tokenizer_of(pieces: list[str], decoder: decoders.Decoder) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(dict.fromkeys(pieces))}, "a"))
    backend.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False)


def bytes_of(*pieces: str) -> list[str]:
    """Text as byte-level tokenizers write it; "|" cuts a token in two, anywhere in a character."""
    table = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return [table.pre_tokenize_str(piece)[0][0] for piece in pieces]


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        (["a", "Ġred", "Ġri", "ng", "."], {"a": [0], "red": [1], "ring": [2, 3], ".": [4]}),
        (["a", "Ċ", "ring", "ĊĊ", "on"], {"a": [0], "ring": [2], "on": [4]}),
        (["Ġcaf", "Ã©", "Ġau"], {"café": [0, 1], "au": [2]}),
        (["Ġcaf", "Ã", "©", "s", "Ġau"], {"cafés": [0, 1, 2, 3], "au": [4]}),
        (["a", "Ġ", "âĢ", "Ķ", "Ġb"], {"a": [0], "—": [2, 3], "b": [4]}),
        (["a", "âĢ"], {"a": [0], "\ufffd": [1]}),
        (["a", *5 * ["Ģ"]], {"a": [0], 5 * "\ufffd": [1, 2, 3, 4, 5]}),
        (["Ġ(", "red", ")", "Ġcar"], {"(": [0], "red": [1], ")": [2], "car": [3]}),
        (["Ġ(red", "),", "Ġcar"], {"(": [0], "red": [0], ")": [1], ",": [1], "car": [2]}),
        (["don", "'t", "Ġ3", ".", "5"], {"don't": [0, 1], "3.5": [2, 3, 4]}),
        ([], {}),
    ],
)
def test_bytes(pieces: list[str], words: dict[str, list[int]]) -> None:
    tokenizer = tokenizer_of(pieces or ["a"], decoders.ByteLevel())
    found = words_of(tokenizer, torch.tensor(tokenizer.convert_tokens_to_ids(pieces), dtype=torch.int64))
    assert [(word.text, list(word.positions)) for word in found] == list(words.items())


@pytest.mark.parametrize("text", ["環は红色", "नमस्ते क्षत्रिय", "السَّلام عليكم", "👨‍👩‍👧 👍🏽"])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_characters_cut_into_tokens(text: str, size: int) -> None:
    """However the bytes are cut, the words are the text's, and each has the tokens that hold its bytes."""
    (written,) = bytes_of(text)
    pieces = [written[start : start + size] for start in range(0, len(written), size)]
    tokenizer = tokenizer_of(pieces, decoders.ByteLevel())
    ids = tokenizer.convert_tokens_to_ids(pieces)
    spelled, spans = spell(tokenizer.decode, ids)
    assert spelled == text
    for place, character in enumerate(text):
        before = len(text[:place].encode())
        holding = range(before // size, (before + len(character.encode()) - 1) // size + 1)
        assert [i for i, (start, end) in enumerate(spans) if start <= place < end] == list(holding)
    completed = "".join(piece.replace("\ufffd", "") for piece in pieces_of(spelled, spans))
    assert completed == text
    words = words_of(tokenizer, torch.tensor(ids))
    assert "".join(word.text for word in words) == "".join(text.split())
    for word in text.split():
        assert find_phrase(word, words) is not None


def test_sentencepiece() -> None:
    pieces = ["▁a", "▁ri", "ng", ",", "▁o", "n", "\n", "it", "▁", "3", ".", "5"]
    tokenizer = tokenizer_of(
        pieces, decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    )
    found = words_of(tokenizer, torch.arange(len(pieces)))
    assert [word.text for word in found] == ["a", "ring", ",", "on", "it", "3.5"]
    assert [word.positions for word in found] == [(0,), (1, 2), (3,), (4, 5), (7,), (9, 10, 11)]


def test_sentencepiece_with_bytes() -> None:
    pieces = ["▁a", "▁", *(f"<0x{byte:02X}>" for byte in "環✅".encode()), "x"]
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer = tokenizer_of(pieces, decoders.Sequence(steps))
    found = words_of(tokenizer, torch.arange(len(pieces)))
    assert [(word.text, word.positions) for word in found] == [
        ("a", (0,)), ("環", (2, 3, 4)), ("✅", (5, 6, 7)), ("x", (8,))
    ]  # fmt: skip


def test_wordpiece() -> None:
    pieces = ["a", "t", "-", "shirt", "play", "##ing", "."]
    tokenizer = tokenizer_of(pieces, decoders.WordPiece(cleanup=False))
    found = words_of(tokenizer, torch.arange(len(pieces)))
    assert [word.text for word in found] == ["a", "t", "-", "shirt", "playing", "."]
    assert find_phrase("t-shirt", found) == (1, 2, 3)


def test_special_tokens_end_words() -> None:
    pieces = ["red", "<end>", "ring", "<end>", "<end>", "Ġa"]
    tokenizer = tokenizer_of(pieces, decoders.ByteLevel())
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    found = words_of(tokenizer, torch.tensor(tokenizer.convert_tokens_to_ids(pieces)))
    assert [(word.text, word.positions) for word in found] == [("red", (0,)), ("ring", (2,)), ("a", (5,))]


def test_unknown_token_ids() -> None:
    pieces = ["a", "Ġred", "Ġri", "ng"]
    tokenizer = tokenizer_of(pieces, decoders.ByteLevel())
    for tokens, text in [
        ([0, 1, 126400, 2, 3], "a red<126400> ring"),
        ([126400], "<126400>"),
        ([126400, 126401, 0], "<126400><126401>a"),
    ]:
        assert decode(tokenizer, torch.tensor(tokens)) == text
        words = words_of(tokenizer, torch.tensor(tokens))
        positions = [position for word in words for position in word.positions]
        assert list(dict.fromkeys(positions)) == list(range(len(tokens)))  # `<`, the number and `>` are of one token
        assert "".join(word.text for word in words) == text.replace(" ", "")


def test_the_models_own_tokens_in_a_prompt() -> None:
    check_prompt("family", "what is <mask>", [3, 4], {7: "<mask>"})
    with pytest.raises(AdapterError, match="family: prompt must not have the model's reserved token <mask>, got"):
        check_prompt("family", "what is <mask>", [3, 4, 7], {7: "<mask>"})
