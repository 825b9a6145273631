"""Explanations as self-contained HTML pages.

A page holds each map as bytes on its grid of cells. A script upsamples and colors it as `dcam_fast.ops.overlay` does:
bilinear between the centers of the cells' pixel boxes.
"""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dcam_fast.explained_answer import ExplainedAnswer
from dcam_fast.ops.overlay import color_table
from dcam_fast.output.pictures import fit, groundedness_color, resized

if TYPE_CHECKING:  # imported where a page is made
    from jinja2 import Environment

LONGEST_SIDE: Final = 960  # pixels of the image in the page
LOSSLESS_PIXELS: Final = 256 * 256  # up to here as PNG, above as JPEG
COLORMAP: Final = "turbo"


def _base64(values: NDArray[np.uint8]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def data_url(image: NDArray[np.uint8]) -> str:
    """An image, uint8 `[H, W, 3]`, as a `data:` URL."""
    buffer = io.BytesIO()
    kind = "png" if image.shape[0] * image.shape[1] <= LOSSLESS_PIXELS else "jpeg"
    Image.fromarray(image).save(buffer, kind, **({"optimize": True} if kind == "png" else {"quality": 88}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dcam_fast.output"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment


def render(template: str, **values: object) -> str:
    """A page from a template in dcam_fast/output/templates, with all values escaped.

    Args:
        template: the file name.
        **values: the variables of the template.

    Raises:
        jinja2.TemplateNotFound: for an unknown template.
        jinja2.UndefinedError: if a variable of the template has no value.
    """
    return _environment().get_template(template).render(values)


def css_color(color: Sequence[int]) -> str:
    """An RGB color, three values in 0..255, as CSS writes it."""
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
                "name": label,
                "steps": explanation.steps(index),
                "peak": f"{target.peak:.3g}",
                "spread": f"{target.spread:.2f}",
                "groundedness": round(target.groundedness, 3),
                "color": css_color(groundedness_color(target.groundedness)),
                "map": _base64(maps[index]),
            }
            for index, (target, label) in enumerate(zip(explanation.targets, explanation.labels, strict=True))
        ],
    }


def to_html(explanation: ExplainedAnswer) -> str:
    """See `Explanation.to_html`."""
    height, width = explanation.image.shape[:2]
    width, height = fit(width, height, *(min(LONGEST_SIDE, max(width, height)),) * 2)
    return render(
        "explanation.html",
        title=explanation.answer[:80] or "no answer",
        prompt=explanation.prompt,
        answer=explanation.answer,
        image=data_url(resized(explanation.image, width, height)),
        width=width,
        height=height,
        provenance=explanation.provenance,
        data=_page_data(explanation, width, height),
    )


def to_iframe(explanation: ExplainedAnswer, height: int = 640) -> str:
    """The page in an iframe, which separates it from the notebook around it."""
    style = f"width:100%;height:{height}px;border:0;border-radius:8px"
    return f'<iframe title="explanation" srcdoc="{escape(to_html(explanation))}" style="{style}"></iframe>'
