"""Words of an answer from its tokenizer's pieces."""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor

from dcam_fast.models.adapter import Word

SPACES: Final = ("▁", "Ġ")  # how tokenizers write the space that a word begins with
BROKEN: Final = "\ufffd"  # how they decode bytes that are not a whole character
LONGEST: Final = 4  # bytes of a character, and so tokens


def words_of(tokenizer: Any, tokens: Tensor) -> tuple[Word, ...]:
    """The words that ``tokens``, int64 ``[n]``, spell: a word begins at a space or a line break, and a sign is one.

    Args:
        tokenizer: of transformers.
    """
    pieces = tokenizer.convert_ids_to_tokens(tokens.tolist())
    runs: list[list[int]] = []
    character: list[int] = []  # positions whose bytes are not a whole one yet
    for position in range(len(pieces)):
        character.append(position)
        text = str(tokenizer.decode(tokens[character].tolist()))
        if text.endswith(BROKEN) and len(character) < LONGEST and position < len(pieces) - 1:
            continue
        begins = pieces[character[0]].startswith(SPACES) or not text.strip()[-1:].isalnum()
        if begins or not runs:
            runs.append([])
        runs[-1] += character
        character = []
    return tuple(Word(str(tokenizer.decode(tokens[run].tolist())).strip(), tuple(run)) for run in runs)
