"""`Service`: what the routes share."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from dcam_fast.explainer import Explainer
from dcam_fast.explanation import Explanation
from dcam_fast.output.record import record_of
from dcam_fast.service import images
from dcam_fast.service.errors import ServiceError, stopping
from dcam_fast.service.fetching import Fetcher
from dcam_fast.service.metrics import Metrics
from dcam_fast.service.requests import read_body
from dcam_fast.service.runs import Runs
from dcam_fast.service.settings import ServiceSettings
from dcam_fast.service.worker import Worker

T = TypeVar("T")
HELPERS: Final = 4  # threads that decode images and draw pages
TIMEOUT: Final = "x-request-timeout"


class Service:
    """The explainer, its worker and what has been counted and kept.

    Args:
        explainer: of the model that answers.
        settings: limits and keys.
    """

    def __init__(self, explainer: Explainer, settings: ServiceSettings) -> None:
        self.explainer = explainer
        self.settings = settings
        self.metrics = Metrics()
        self.worker = Worker(settings.queue, self.metrics)
        self.runs = Runs(settings.runs, settings.runs_bytes)
        self.fetch = Fetcher(settings.image_hosts, settings.max_body, settings.body_seconds)
        self.is_warm = False
        self.warming: asyncio.Future[None] | None = None
        self._helpers = ThreadPoolExecutor(HELPERS, "dcam-helper")
        self._reading: set[asyncio.Future[bytes]] = set()

    @property
    def model(self) -> str:
        """The name of the model."""
        return self.explainer.adapter.name

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken by a warm model."""
        return self.is_warm and self.worker.is_ready

    @contextlib.contextmanager
    def place(self, request: Request) -> Iterator[float | None]:
        """A place in the queue for a request, while the context is open; its value is the request's deadline.

        Raises:
            ServiceError: as `Worker.place` and `seconds_allowed`.
        """
        seconds = seconds_allowed(request)
        deadline = None if seconds is None else self.worker.clock() + seconds
        with self.worker.place(deadline):
            yield deadline

    async def read(self, request: Request) -> bytes:
        """The body of a request.

        Raises:
            ServiceError: as `read_body`, and 503 if the service ends before it has arrived.
        """
        settings = self.settings
        reading = asyncio.ensure_future(read_body(request, settings.max_body, settings.body_seconds))
        self._reading.add(reading)
        try:
            await asyncio.wait({reading})
            if reading.cancelled():
                raise stopping()
            return reading.result()
        finally:
            self._reading.discard(reading)
            reading.cancel()

    def cancel_all(self) -> None:
        """Answers every request with an error: those that wait or run, and those whose body has not arrived."""
        self.worker.cancel_all()
        for reading in self._reading:
            reading.cancel()

    def close(self) -> None:
        """Stops all work. Blocks until the worker's thread has ended."""
        self.worker.close()
        self._helpers.shutdown(cancel_futures=True)

    async def aside(self, function: Callable[..., T], *arguments: Any) -> T:
        """The result of a function that would hold up the event loop, from a helper's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._helpers, function, *arguments)

    def decode(self, image: str | bytes) -> NDArray[np.uint8]:
        """The image of a request. Blocks."""
        if isinstance(image, str):
            image = self.fetch(image) if images.is_url(image) else images.from_text(image)
        return images.decode(image, self.settings.max_pixels)

    def keep(self, explanation: Explanation, method: str) -> str:
        """Counts and keeps an explanation; returns its id."""
        self.metrics.observe(explanation, method)
        identifier = self.runs.add(explanation)
        self.metrics.runs.set(len(self.runs))
        return identifier

    def record(self, explanation: Explanation, identifier: str, *, raw_maps: bool = False) -> dict[str, Any]:
        """An explanation as JSON values, with its id."""
        return {"id": identifier, **record_of(explanation, ("maps", "raw_maps") if raw_maps else ("maps",))}


def seconds_allowed(request: Request) -> float | None:
    """The seconds that a request gives, in its header `X-Request-Timeout`.

    Raises:
        ServiceError: if that is no positive number.
    """
    text = request.headers.get(TIMEOUT)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        message = f"service: X-Request-Timeout must be seconds, more than 0, got {text[:40]!r}"
        raise ServiceError(422, "invalid_value", message, "X-Request-Timeout")
    return seconds
