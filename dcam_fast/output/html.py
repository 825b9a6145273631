"""Explanations as pages: one HTML file that needs nothing from elsewhere.

The maps travel as bytes of their own small grids, and the page upsamples and colors them as `dcam_fast.ops.overlay`
does: bilinear between the centers of the cells' pixel boxes.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from html import escape
from importlib import resources
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dcam_fast.explained import ExplainedAnswer
from dcam_fast.ops.overlay import color_table
from dcam_fast.output.pictures import fit, groundedness_color, resized

LONGEST_SIDE: Final = 960  # pixels of the image in the page
LOSSLESS_PIXELS: Final = 256 * 256  # up to here as PNG, above as JPEG
COLORMAP: Final = "turbo"


def _base64(values: NDArray[np.uint8]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def data_url(image: NDArray[np.uint8]) -> str:
    """An image, uint8 [H, W, 3], as the text that stands for its address."""
    buffer = io.BytesIO()
    kind = "png" if image.shape[0] * image.shape[1] <= LOSSLESS_PIXELS else "jpeg"
    Image.fromarray(image).save(buffer, kind, **({"optimize": True} if kind == "png" else {"quality": 88}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def fill(template: str, values: dict[str, str]) -> str:
    """A template of this package with its `{{names}}` filled in, in one pass: nothing filled in is read again."""
    text = resources.files("dcam_fast.output").joinpath("templates", template).read_text("utf-8")
    head, *parts = text.split("{{")
    return head + "".join(values[name] + rest for name, _, rest in (part.partition("}}") for part in parts))


def css_color(color: Sequence[int]) -> str:
    """A color as style sheets write it."""
    return "#" + bytes(color).hex()


def _page_data(explanation: ExplainedAnswer, width: int, height: int) -> dict[str, object]:
    maps = (explanation.maps.nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    rows, columns = explanation.image.shape[0] / height, explanation.image.shape[1] / width
    boxes = explanation.boxes.cpu().double().numpy() / (columns, rows, columns, rows)
    return {
        "colors": _base64(color_table(COLORMAP, torch.device("cpu")).numpy()),
        "columns": boxes[0, :, 0::2].round(3).tolist(),
        "rows": boxes[:, 0, 1::2].round(3).tolist(),
        "pieces": [
            [piece.text, -1 if piece.target is None else piece.target, piece.token.step if piece.token else -1]
            for piece in explanation.pieces()
        ],
        "targets": [
            {
                "name": name,
                "steps": explanation.steps(index),
                "peak": f"{target.peak:.3g}",
                "spread": f"{target.spread:.2f}",
                "groundedness": round(target.groundedness, 3),
                "color": css_color(groundedness_color(target.groundedness)),
                "map": _base64(maps[index]),
            }
            for index, (target, name) in enumerate(zip(explanation.targets, explanation.names, strict=True))
        ],
    }


def _provenance(values: object) -> str:
    """Nested facts as rows of a table; the result is HTML."""
    if not isinstance(values, dict):
        return escape(f"{values:.4g}" if isinstance(values, float) else str(values))
    rows = (f"<tr><th>{escape(str(name))}<td>{_provenance(value)}" for name, value in values.items())
    return f"<table>{''.join(rows)}</table>"


def to_html(explanation: ExplainedAnswer) -> str:
    """See `Explanation.to_html`."""
    height, width = explanation.image.shape[:2]
    width, height = fit(width, height, *(min(LONGEST_SIDE, max(width, height)),) * 2)
    data = json.dumps(_page_data(explanation, width, height), separators=(",", ":"))
    return fill(
        "explanation.html",
        {
            "title": escape(explanation.answer[:80] or "no answer"),
            "prompt": escape(explanation.prompt),
            "answer": escape(explanation.answer),
            "image": data_url(resized(explanation.image, width, height)),
            "width": str(width),
            "height": str(height),
            "provenance": _provenance(dict(explanation.provenance)),
            "data": data.replace("<", "\\u003c"),
        },
    )


def to_iframe(explanation: ExplainedAnswer, height: int = 640) -> str:
    """The page in a frame of its own, so that it and the notebook around it leave each other alone."""
    style = f"width:100%;height:{height}px;border:0;border-radius:8px"
    return f'<iframe title="explanation" srcdoc="{escape(to_html(explanation))}" style="{style}"></iframe>'
