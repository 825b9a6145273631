"""Explanations of noise, made without a model."""

from __future__ import annotations

import numpy as np
import torch

from dcam_fast.explained_answer import Target, Token
from dcam_fast.explanation import Explanation


def cells(height: int, width: int, rows: int, columns: int) -> torch.Tensor:
    """Pixel boxes [rows, columns, 4] that tile an image."""
    x, y = torch.arange(columns + 1) * width / columns, torch.arange(rows + 1) * height / rows
    boxes = torch.empty(rows, columns, 4)
    boxes[..., 0], boxes[..., 2] = x[:-1], x[1:]
    boxes[..., 1], boxes[..., 3] = y[:-1, None], y[1:, None]
    return boxes


def make(
    words: str = "a red Ring , and a blue ring",
    targets: tuple[str, ...] = ("red", "Ring", "blue", "ring"),
    *,
    size: tuple[int, int] = (40, 72),
    grid: tuple[int, int] = (3, 5),
    prompt: str = "what is there ?",
) -> Explanation:
    """An explanation of a noisy picture; each target is the next word of that text."""
    rng = np.random.default_rng(0)
    texts = words.split()
    tokens = tuple(Token(text, 7 * i, i, (3 * i) % 4) for i, text in enumerate(texts))
    chosen, start = [], 0
    for i, text in enumerate(targets):
        start = texts.index(text, start)
        chosen.append(Target(text, (start,), 1.5, 0.25, (i + 1) / max(len(targets), 1)))
        start += 1
    raw = torch.from_numpy(rng.random((len(targets), *grid), np.float32))
    return Explanation(
        image=rng.integers(0, 256, (*size, 3), np.uint8),
        prompt=prompt,
        answer=" ".join(texts),
        tokens=tokens,
        targets=tuple(chosen),
        maps=raw**2,
        raw_maps=raw,
        boxes=cells(*size, *grid),
        provenance={"model": "none", "blocks": [0, 1], "seconds": {"generate": 0.25}},
    )


def same(first: Explanation, second: Explanation) -> bool:
    arrays = ("maps", "raw_maps", "boxes")
    rest = ("prompt", "answer", "tokens", "targets", "provenance")
    return (
        all(torch.equal(getattr(first, name), getattr(second, name)) for name in arrays)
        and all(getattr(first, name) == getattr(second, name) for name in rest)
        and bool((first.image == second.image).all())
    )
