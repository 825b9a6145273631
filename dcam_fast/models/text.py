"""Words of an answer from its tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from dcam_fast.models.adapter import AdapterError, Word
from dcam_fast.words import BROKEN, words_in


def words_of(tokenizer: Any, tokens: Tensor) -> tuple[Word, ...]:
    """The words and signs that ``tokens``, int64 ``[n]``, spell; see `dcam_fast.words`.

    White space and special tokens belong to no word. A token of several words belongs to each of them, and one of a
    word and signs to both.

    Args:
        tokenizer: of transformers.
    """
    special = frozenset(tokenizer.all_special_ids)
    text, spans = spell(lambda some: decode(tokenizer, torch.tensor(some, dtype=torch.int64)), tokens.tolist(), special)
    return words_in(text, spans)


def spell(
    decode: Callable[[list[int]], str], tokens: Sequence[int], special: Collection[int] = ()
) -> tuple[str, list[tuple[int, int]]]:
    """What tokens spell, and the (start, end) characters of each.

    Tokens are decoded after those before them, because decoders write the spaces between words by what comes before.

    Args:
        decode: ids to text.
        tokens: ids.
        special: ids that spell nothing; a line break stands for each.
    """
    text = ""
    spans: list[tuple[int, int]] = []
    before: list[int] = []  # the tokens that were written last, from the last that can be seen
    group: list[int] = []  # tokens whose bytes do not end with a whole character yet
    written = ""  # what they spell
    for token in tokens:
        if token in special:
            text += written + "\n"
            spans.append((len(text) - 1, len(text) - 1))
            before, group, written = [], [], ""
            continue
        start = len(text) + len(written.rstrip(BROKEN))
        group.append(token)
        context, whole = decode(before), decode(before + group)
        written = whole.removeprefix(context) if whole.startswith(context) else decode(group)
        end = len(text) + len(written.rstrip(BROKEN)) + written.endswith(BROKEN)
        spans.append((min(start, end), end))
        if not written.endswith(BROKEN):
            text += written
            before = group if written.strip() else before + group
            group, written = [], ""
    return text + written, spans


def pieces_of(text: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    """What each token of `spell` completes; where it begins a character of a later one, it ends in `BROKEN`."""
    following = [start for start, _ in spans[1:]] + [len(text)]
    return [
        text[start:end] if end <= later else text[start : end - 1] + BROKEN
        for (start, end), later in zip(spans, following, strict=True)
    ]


def decode(tokenizer: Any, tokens: Tensor) -> str:
    """Token ids ``tokens``, int64 ``[n]``, as text. An id that the tokenizer lacks (models have more rows than their
    tokenizers have tokens) becomes ``<id>``."""
    parts: list[str] = []
    for is_known, ids in groupby(tokens.tolist(), lambda token: piece_of(tokenizer, token) is not None):
        if is_known:
            parts.append(str(tokenizer.decode(list(ids), skip_special_tokens=True)))
        else:
            parts += [f"<{token}>" for token in ids]
    return "".join(parts)


def piece_of(tokenizer: Any, token: int) -> str | None:
    """How the tokenizer writes a token; None for an id that it lacks."""
    try:
        piece: str | None = tokenizer.convert_ids_to_tokens(token)
    except (IndexError, OverflowError):  # of SentencePiece; of an id that is no index
        return None
    return piece


def check_prompt(family: str, prompt: str, tokens: Sequence[int], own: Mapping[int, str]) -> None:
    """Raises AdapterError if ``tokens``, those of the prompt, have one that stands for something else in the model's
    sequence, such as a mask; ``own`` names these."""
    for token in tokens:
        if token in own:
            raise AdapterError(f"{family}: prompt must not have the model's own token {own[token]}, got {prompt!r}")
