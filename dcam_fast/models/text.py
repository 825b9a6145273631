"""Words of an answer from its tokenizer's pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from torch import Tensor

from dcam_fast.models.adapter import AdapterError, Word

SPACES: Final = ("▁", "Ġ")  # how tokenizers write the space that a word begins with
BROKEN: Final = "\ufffd"  # how they decode bytes that are not a whole character
LONGEST: Final = 4  # bytes of a character, and so tokens


def words_of(tokenizer: Any, tokens: Tensor) -> tuple[Word, ...]:
    """The words that ``tokens``, int64 ``[n]``, spell: a word begins at a space or a line break, and a sign is one.

    Args:
        tokenizer: of transformers.
    """
    pieces = [piece_of(tokenizer, token) or f"<{token}>" for token in tokens.tolist()]
    runs: list[list[int]] = []
    character: list[int] = []  # positions whose bytes are not a whole one yet
    for position in range(len(pieces)):
        character.append(position)
        text = decode(tokenizer, tokens[character])
        if text.endswith(BROKEN) and len(character) < LONGEST and position < len(pieces) - 1:
            continue
        begins = pieces[character[0]].startswith(SPACES) or not text.strip()[-1:].isalnum()
        if begins or not runs:
            runs.append([])
        runs[-1] += character
        character = []
    return tuple(Word(decode(tokenizer, tokens[run]).strip(), tuple(run)) for run in runs)


def decode(tokenizer: Any, tokens: Tensor, *, skip_special_tokens: bool = False) -> str:
    """Token ids ``tokens``, int64 ``[n]``, as text. An id that the tokenizer lacks (models have more rows than their
    tokenizers have tokens) becomes ``<id>``."""
    parts: list[str] = []
    for is_known, ids in groupby(tokens.tolist(), lambda token: piece_of(tokenizer, token) is not None):
        if is_known:
            parts.append(str(tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)))
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
