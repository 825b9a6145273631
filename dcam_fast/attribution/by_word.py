"""From tokens to words: the map of a word is the mean map of its tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dcam_fast.models.adapter import Word


def positions_of(words: Sequence[Word]) -> Tensor:
    """Answer positions int64 `[T]` of the tokens of all `words`, one word after the other."""
    return torch.tensor([position for word in words for position in word.positions], dtype=torch.int64)


def word_index(words: Sequence[Word]) -> Tensor:
    """Index int64 `[T]` of the word that each position of `positions_of` belongs to."""
    return torch.tensor([index for index, word in enumerate(words) for _ in word.positions], dtype=torch.int64)


def mean_by_word(values: Tensor, words: Sequence[Word]) -> Tensor:
    """Means `[len(words), ...]` of the rows `[T, ...]` that belong to the same word, as `positions_of` orders them."""
    index = word_index(words).to(values.device)
    total = values.new_zeros(len(words), *values.shape[1:]).index_add(0, index, values)
    counts = torch.bincount(index, minlength=len(words)).to(values.dtype)
    return total / counts.view(-1, *[1] * (values.ndim - 1))
