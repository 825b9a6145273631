"""`create_app`: the service as an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from dcam_fast._version import __version__
from dcam_fast.explainer import Explainer
from dcam_fast.scenes import sample_image
from dcam_fast.service import explanations, openai_api, pages
from dcam_fast.service.answering import ExplanationRequest, explain
from dcam_fast.service.errors import ServiceError, stopping
from dcam_fast.service.middleware import Gate
from dcam_fast.service.settings import ServiceSettings
from dcam_fast.service.state import Service

log = logging.getLogger(__name__)


def create_app(explainer: Explainer, settings: ServiceSettings | None = None) -> FastAPI:
    """The service of one explainer.

    Its worker starts with the application and explains one image first, so that no request pays for what torch does
    only once.

    Args:
        explainer: of the model that answers.
        settings: limits and keys.

    Example:
        >>> from dcam_fast import Explainer
        >>> app = create_app(Explainer.from_pretrained("tiny"))
        >>> app.title
        'dcam_fast'
    """
    service = Service(explainer, settings or ServiceSettings())

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        service.worker.start()
        service.warming = asyncio.ensure_future(_warm_up(service))
        try:
            yield
        finally:
            service.warming.cancel()
            await asyncio.to_thread(service.close)

    app = FastAPI(title="dcam_fast", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_middleware(Gate, settings=service.settings, metrics=service.metrics)
    app.add_exception_handler(HTTPException, _http_error)
    for router in (explanations.router(service), openai_api.router(service), pages.router(service)):
        app.include_router(router)

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> Response:
        """Whether the process answers at all."""
        return Response()

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready")
    async def ready() -> Response:
        """Whether requests are taken: the model is warm and the service does not shut down."""
        if not service.is_ready:
            raise stopping() if service.worker.is_draining else ServiceError(503, "starting", "service: must be warm")
        return Response()

    @app.get("/metrics")
    async def metrics() -> Response:
        """What the service counts, in Prometheus's format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


async def _warm_up(service: Service) -> None:
    request = ExplanationRequest(sample_image())
    try:
        await service.worker.submit(lambda job: explain(service.explainer, request, job)).result()
    except ServiceError as error:
        log.error("service: the model cannot be warmed up: %s", error.code)
    else:
        service.is_warm = True


async def _http_error(request: Request, error: Any) -> Response:
    """An error of the framework, such as an unknown path, in the service's shape."""
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    found = ServiceError(error.status_code, code, f"service: {error.detail}", None, error.headers)
    return found.response()
