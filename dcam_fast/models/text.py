"""Words of an answer from its tokenizer's pieces."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dcam_fast.models.adapter import Word

SPACES = ("▁", "Ġ")  # how tokenizers write the space that a word begins with


def words_of(tokenizer: Any, tokens: Tensor) -> tuple[Word, ...]:
    """The words that ``tokens``, int64 ``[n]``, spell: a word begins at a space, and a sign is a word of its own.

    Args:
        tokenizer: of transformers.
    """
    runs: list[list[int]] = []
    for position, piece in enumerate(tokenizer.convert_ids_to_tokens(tokens.tolist())):
        begins = piece.startswith(SPACES) or not piece[-1:].isalnum()
        if begins or not runs:
            runs.append([])
        runs[-1].append(position)
    return tuple(Word(str(tokenizer.decode(tokens[run].tolist())).strip(), tuple(run)) for run in runs)
