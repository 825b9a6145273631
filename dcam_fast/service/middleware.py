"""`Gate`: what every request passes: its id, its key, its log line, its metrics and its headers."""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dcam_fast.service.errors import GONE, ServiceError, as_service_error
from dcam_fast.service.logs import request_id
from dcam_fast.service.metrics import Metrics
from dcam_fast.service.settings import ServiceSettings

log = logging.getLogger(__name__)

OPEN_PATHS: Final = ("/", "/health", "/ready", "/viewer.css", "/viewer.js")  # no key: they hold nothing of anyone
REQUEST_ID: Final = re.compile(r"[\w.:-]{1,64}", re.ASCII)
SECURITY: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class Gate:
    """ASGI middleware around the whole service. Nothing raises through it.

    Args:
        app: the service.
        settings: keys and hosts.
        metrics: where it counts.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; ASGI's interface."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        identifier = headers.get("x-request-id", "")
        if not REQUEST_ID.fullmatch(identifier):
            identifier = uuid.uuid4().hex
        token = request_id.set(identifier)
        status, started = 0, time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(message, {**SECURITY, "X-Request-Id": identifier})
            await send(message)

        self._metrics.in_flight.inc()
        try:
            self._check(scope, headers)
            await self._app(scope, receive, send_with_headers)
        except Exception as caught:
            error = as_service_error(caught)
            if caught is not error and error.status == 500:
                log.error("service: a request failed", exc_info=caught)
            if not status:
                await error.response()(scope, receive, send_with_headers)
        finally:
            self._metrics.in_flight.dec()
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status or GONE)).inc()
            seconds = round(time.perf_counter() - started, 4)
            facts = {"route": route, "method": scope["method"], "status": status or GONE, "seconds": seconds}
            log.info("request", extra={"fields": facts})
            request_id.reset(token)

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raises ServiceError unless the request may be answered."""
        hosts, host = self._settings.hosts, headers.get("host", "")
        if hosts and _name_of(f"//{host}") not in hosts:
            raise ServiceError(400, "unknown_host", "service: Host must be a name of this service, got another")
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
            raise ServiceError(403, "other_origin", "service: Origin must be this service, got another page's")
        key = self._settings.api_key
        if key is not None and scope["path"] not in OPEN_PATHS and not _has_key(headers.getlist("authorization"), key):
            need = {"WWW-Authenticate": "Bearer"}
            message = "service: Authorization must be Bearer and the service's key, got something else"
            raise ServiceError(401, "invalid_api_key", message, None, need)


def _has_key(values: Iterable[str], key: str) -> bool:
    """Whether an `Authorization` header carries the key; takes as long for any wrong key of a length."""
    return any(hmac.compare_digest(value.encode(), f"Bearer {key}".encode()) for value in values)


def _name_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _add_headers(message: Message, values: dict[str, str]) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in values.items():
        headers.setdefault(name, value)
