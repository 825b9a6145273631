"""Words of pieces as byte-level and SentencePiece tokenizers write them."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from dcam_fast.models.adapter import AdapterError
from dcam_fast.models.text import check_prompt, decode, words_of


def tokenizer_of(pieces: list[str], decoder: decoders.Decoder) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(dict.fromkeys(pieces))}, "a"))
    backend.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        (["a", "Ġred", "Ġri", "ng", "."], ["a", "red", "ring", "."]),
        (["a", "Ċ", "ring", "ĊĊ", "on"], ["a", "ring", "on"]),
        (["Ġcaf", "Ã©", "Ġau"], ["café", "au"]),
        (["Ġcaf", "Ã", "©", "s", "Ġau"], ["cafés", "au"]),
        (["a", "Ġ", "âĢ", "Ķ", "Ġb"], ["a", "", "—", "b"]),
        (["a", "âĢ", "Ķ"], ["a", "—"]),
        (["a", "âĢ"], ["a", "\ufffd"]),
        (["a", *5 * ["Ģ"], "b"], ["a", 5 * "\ufffd" + "b"]),
        ([], []),
    ],
)
def test_bytes(pieces: list[str], words: list[str]) -> None:
    tokenizer = tokenizer_of(pieces or ["a"], decoders.ByteLevel())
    found = words_of(tokenizer, torch.tensor(tokenizer.convert_tokens_to_ids(pieces), dtype=torch.int64))
    assert [word.text for word in found] == words
    assert [position for word in found for position in word.positions] == list(range(len(pieces)))


def test_sentencepiece() -> None:
    pieces = ["▁a", "▁ri", "ng", ",", "▁o", "n", "\n", "it"]
    tokenizer = tokenizer_of(pieces, decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()]))
    found = words_of(tokenizer, torch.arange(len(pieces)))
    assert [word.text for word in found] == ["a", "ring", ",", "on", "it"]


def test_ids_that_the_tokenizer_lacks() -> None:
    pieces = ["a", "Ġred", "Ġri", "ng"]
    tokenizer = tokenizer_of(pieces, decoders.ByteLevel())
    for tokens, text in [
        ([0, 1, 126400, 2, 3], "a red<126400> ring"),
        ([126400], "<126400>"),
        ([126400, 126401, 0], "<126400><126401>a"),
    ]:
        assert decode(tokenizer, torch.tensor(tokens)) == text
        words = words_of(tokenizer, torch.tensor(tokens))
        assert [position for word in words for position in word.positions] == list(range(len(tokens)))
        assert "".join(word.text for word in words) == text.replace(" ", "")


def test_the_models_own_tokens_in_a_prompt() -> None:
    check_prompt("family", "what is <mask>", [3, 4], {7: "<mask>"})
    with pytest.raises(AdapterError, match="family: prompt must not have the model's own token <mask>, got 'what is"):
        check_prompt("family", "what is <mask>", [3, 4, 7], {7: "<mask>"})
