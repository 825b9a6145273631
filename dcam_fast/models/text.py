"""Words of an answer from its tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from dcam_fast.models.adapter import NO_MASK, AdapterError, Word
from dcam_fast.words import BROKEN, words_in


def words_of(tokenizer: Any, tokens: Tensor, mask_token: int = NO_MASK) -> tuple[Word, ...]:
    """The words and signs that `tokens`, int64 `[n]`, spell with a `tokenizer` of transformers; see `dcam_fast.words`.

    White space, special tokens and the mask token belong to no word. A token that spans several words belongs to each
    of them, and one that spans a word and signs to both.
    """
    special = {*tokenizer.all_special_ids, mask_token}
    text, spans = spell(lambda ids: decode(tokenizer, torch.tensor(ids, dtype=torch.int64)), tokens.tolist(), special)
    return words_in(text, spans)


def spell(
    decode: Callable[[list[int]], str], tokens: Sequence[int], special: Collection[int] = ()
) -> tuple[str, list[tuple[int, int]]]:
    """The text that tokens spell, and the (start, end) characters of each.

    Tokens are decoded together with those before them, because decoders insert spaces by context.

    Args:
        decode: ids to text.
        tokens: ids.
        special: ids that spell nothing; each becomes a line break.

    >>> spell(lambda ids: "".join("abc"[i] for i in ids), [0, 2])
    ('ac', [(0, 1), (1, 2)])
    """
    text = ""
    spans: list[tuple[int, int]] = []
    before: list[int] = []  # the last tokens in the text, from the last visible one
    group: list[int] = []  # tokens whose bytes do not yet end with a whole character
    written = ""  # the text of the group
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
    """The text that each token of `spell` completes. It ends in `BROKEN` where a later token completes its last
    character."""
    following = [start for start, _ in spans[1:]] + [len(text)]
    return [
        text[start:end] if end <= later else text[start : end - 1] + BROKEN
        for (start, end), later in zip(spans, following, strict=True)
    ]


def decode(tokenizer: Any, tokens: Tensor) -> str:
    """Token ids, int64 `[n]`, as text. An id that the tokenizer lacks becomes `<id>`: models can have more embedding
    rows than their tokenizers have tokens."""
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
    except (IndexError, OverflowError):  # SentencePiece; an id that does not fit an index
        return None
    return piece


def check_prompt(family: str, prompt: str, tokens: Sequence[int], reserved: Mapping[int, str]) -> None:
    """Checks that a prompt has no token with a meaning in the model's sequence, such as the mask.

    Args:
        family: the name that the message begins with.
        prompt: the text.
        tokens: ids of the prompt.
        reserved: names of the ids that it must not have.

    Raises:
        AdapterError: for the first such token.
    """
    for token in tokens:
        if token in reserved:
            raise AdapterError(
                f"{family}: prompt must not have the model's reserved token {reserved[token]}, got {prompt!r}"
            )
