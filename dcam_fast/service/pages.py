"""The live page and the sample images that it offers."""

from __future__ import annotations

import functools
import io
from typing import Final

import numpy as np
from fastapi import APIRouter
from fastapi.responses import Response
from PIL import Image

from dcam_fast.output.html import live_page, viewer_script, viewer_style
from dcam_fast.scenes import DEMO_SEED, sample_scene
from dcam_fast.service.errors import ServiceError, json_response
from dcam_fast.service.state import Service

SAMPLES: Final = 8
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/")
    async def live() -> Response:
        """The live page."""
        text = live_page(service.model, service.explainer.adapter.default_prompt)
        return Response(text, 200, {"Content-Security-Policy": POLICY}, "text/html")

    @routes.get("/viewer.js")
    async def script() -> Response:
        """Its script."""
        return Response(viewer_script(), media_type="text/javascript")

    @routes.get("/viewer.css")
    async def style() -> Response:
        """Its style sheet."""
        return Response(viewer_style(), media_type="text/css")

    @routes.get("/v1/samples")
    async def samples() -> Response:
        """The sample images."""
        data = [{"name": f"scene {index + 1}", "url": f"/v1/samples/{index}.png"} for index in range(SAMPLES)]
        return json_response({"data": data})

    @routes.get("/v1/samples/{index}.png")
    async def sample(index: str) -> Response:
        """A sample image."""
        if index not in map(str, range(SAMPLES)):
            raise ServiceError(
                404, "not_found", f"service: sample must be from 0 to {SAMPLES - 1}, got another", "index"
            )
        return Response((await service.aside(_samples))[int(index)], 200, None, "image/png")

    return routes


@functools.cache
def _samples() -> tuple[bytes, ...]:
    rng = np.random.default_rng(DEMO_SEED)
    pictures = []
    for _ in range(SAMPLES):
        buffer = io.BytesIO()
        Image.fromarray(sample_scene(rng).image).save(buffer, "png")
        pictures.append(buffer.getvalue())
    return tuple(pictures)
