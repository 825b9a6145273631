"""Explanations as JSON values: what is saved, what a page holds and what a service answers."""

from __future__ import annotations

import base64
from collections.abc import Collection
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from dcam_fast.explained_answer import ExplainedAnswer

SCHEMA: Final = 1
MAPS: Final = ("maps", "raw_maps")


def encode_maps(maps: Tensor) -> dict[str, Any]:
    """Maps as 8-bit numbers, which is what a color table distinguishes.

    Args:
        maps: float `[T, h, w]`; 0..1 becomes 0..255, values outside are clipped, NaN becomes 0.

    Returns:
        `dtype`, `shape` and `data`: base64 of the bytes, row by row.

    Example:
        >>> encode_maps(torch.tensor([[[0.0, 1.0]]]))
        {'dtype': 'uint8', 'shape': [1, 1, 2], 'data': 'AP8='}
    """
    values = (maps.detach().float().nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    data = base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
    return {"dtype": "uint8", "shape": list(values.shape), "data": data}


def encode_boxes(boxes: Tensor) -> dict[str, Any]:
    """The pixels that cells cover: x depends on the column alone and y on the row alone.

    Args:
        boxes: float32 `[h, w, 4]`, pixels (x0, y0, x1, y1) of each cell.

    Returns:
        `x`: `[x0, x1]` of each column; `y`: `[y0, y1]` of each row.

    Example:
        >>> encode_boxes(torch.tensor([[[0.0, 0.0, 4.0, 8.0], [4.0, 0.0, 8.0, 8.0]]]))
        {'x': [[0.0, 4.0], [4.0, 8.0]], 'y': [[0.0, 8.0]]}
    """
    pixels = boxes.cpu().double().numpy().round(3)
    return {"x": pixels[0, :, 0::2].tolist(), "y": pixels[:, 0, 1::2].tolist()}


def record_of(explanation: ExplainedAnswer, arrays: Collection[str] = ("maps",)) -> dict[str, Any]:
    """An explanation as JSON values, without its image.

    Args:
        explanation: whose record it is.
        arrays: `"maps"` and `"raw_maps"`, of those the record holds; without any it also lacks `boxes`.

    Returns:
        `schema`, `prompt`, `answer`, `tokens`, `targets` (with the `name` of each), `pieces` (`[text, position of the
        token or None, index of the target or None]`), `image`, `grid`, `provenance`, and the arrays as `encode_maps`
        and `encode_boxes` give them.

    Raises:
        ValueError: for an unknown array.
    """
    if unknown := sorted(set(arrays) - set(MAPS)):
        raise ValueError(f"record_of: arrays must be of {', '.join(MAPS)}, got {', '.join(unknown)}")
    height, width = explanation.image.shape[:2]
    _, rows, columns = explanation.maps.shape
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "prompt": explanation.prompt,
        "answer": explanation.answer,
        "tokens": [asdict(token) for token in explanation.tokens],
        "targets": [
            {"name": name, **asdict(target)}
            for name, target in zip(explanation.names, explanation.targets, strict=True)
        ],
        "pieces": [
            [piece.text, None if piece.token is None else piece.token.position, piece.target]
            for piece in explanation.pieces()
        ],
        "image": {"height": height, "width": width},
        "grid": {"rows": rows, "columns": columns},
        "provenance": dict(explanation.provenance),
    }
    if arrays:
        record["boxes"] = encode_boxes(explanation.boxes)
    return record | {name: encode_maps(getattr(explanation, name)) for name in MAPS if name in arrays}
