"""Explanations as self-contained HTML pages, and the live page of a service: one template, style and script.

A page holds each map as bytes on its grid of cells. A script upsamples and colors it as `dcam_fast.ops.overlay` does:
bilinear between the centers of the cells' pixel boxes. The sources are in templates/viewer.html and templates/viewer/.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dcam_fast.explained_answer import ExplainedAnswer
from dcam_fast.ops.overlay import color_table
from dcam_fast.output.pictures import fit, resized
from dcam_fast.output.record import record_of

if TYPE_CHECKING:  # imported where a page is made
    from jinja2 import Environment

LONGEST_SIDE: Final = 1920  # pixels of the image in the page
LOSSLESS_PIXELS: Final = 256 * 256  # up to here as PNG, above as JPEG
COLORMAPS: Final = ("magma", "viridis", "cividis", "turbo")  # the first is the default; turbo needs color vision
TEMPLATES: Final = files("dcam_fast.output") / "templates"
SCRIPTS: Final = ("maps.js", "run.js", "elements.js", "pane.js", "timeline.js", "export.js", "live.js", "app.js")


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


@functools.cache
def viewer_script() -> str:
    """The script of the page, the same for saved and live pages."""
    parts = [(TEMPLATES / "viewer" / name).read_text("utf-8") for name in SCRIPTS]
    return "\n".join(['"use strict";', "(() => {", *parts, "})();", ""])


@functools.cache
def viewer_style() -> str:
    """The style sheet of the page."""
    return (TEMPLATES / "viewer" / "viewer.css").read_text("utf-8")


def _source_hash(text: str) -> str:
    """A source of a content security policy that allows exactly this script or style sheet."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def saved_policy() -> str:
    """The content security policy of saved pages: nothing is loaded, and no other script or style sheet runs."""
    script, style = _source_hash(viewer_script()), _source_hash(viewer_style())
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data: blob:; "
        f"script-src {script}; style-src {style}"
    )


def _color_tables() -> dict[str, str]:
    """The 256 colors of each colormap, RGB bytes in base64."""
    tables = {name: color_table(name, torch.device("cpu")).numpy() for name in COLORMAPS}
    return {name: base64.b64encode(table.tobytes()).decode() for name, table in tables.items()}


def to_html(explanation: ExplainedAnswer) -> str:
    """See `Explanation.to_html`."""
    height, width = explanation.image.shape[:2]
    shown = fit(width, height, *(min(LONGEST_SIDE, max(width, height)),) * 2)
    return render(
        "viewer.html",
        title=explanation.answer[:80] or "no answer",
        policy=saved_policy(),
        script=viewer_script(),
        style=viewer_style(),
        image=data_url(resized(explanation.image, *shown)),
        explanation=explanation,
        data={"live": None, "colormaps": _color_tables(), "record": record_of(explanation)},
    )


def live_page(model: str, prompt: str) -> str:
    """The page of a service, which asks, watches and compares. It loads viewer.js and viewer.css from beside it.

    Args:
        model: the name of the model, to show.
        prompt: the question that the page suggests.
    """
    from dcam_fast.attribution.methods.gradient_cam import GradientCAM
    from dcam_fast.attribution.methods.presets import METHODS

    streamed = {name: isinstance(method, GradientCAM) for name, method in METHODS.items()}
    live = {"model": model, "prompt": prompt, "methods": streamed}
    return render(
        "viewer.html",
        title="dcam_fast",
        policy=None,
        script=None,
        style=None,
        image=None,
        explanation=None,
        data={"live": live, "colormaps": _color_tables(), "record": None},
    )


def to_iframe(explanation: ExplainedAnswer, height: int = 720) -> str:
    """The page in an iframe, which separates it from the notebook around it."""
    style = f"width:100%;height:{height}px;border:0;border-radius:8px"
    return f'<iframe title="explanation" srcdoc="{escape(to_html(explanation))}" style="{style}"></iframe>'
