"""Bodies of requests: read within limits, and checked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, Final, TypeVar

from fastapi import Request
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Receive

from dcam_fast.service.errors import GONE, ServiceError

T = TypeVar("T")
TEXTS: Final = ("image", "prompt", "answer", "method", "profile")  # fields of a form that are not JSON
MAX_FIELDS: Final = 20


class Parser(MultiPartParser):
    """Keeps uploads in memory: their size is limited already."""

    spool_max_size = 1 << 40


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The body of a request.

    Raises:
        ServiceError: 413 for more than `limit` bytes, 408 if they take longer than `seconds`, 499 if the client left.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > limit):
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in _chunks(request.receive):
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        message = f"service: body must arrive in {seconds:g} s, got a part of it"
        raise ServiceError(408, "body_too_slow", message, None, {"Connection": "close"}) from None
    return bytes(body)


async def _chunks(receive: Receive) -> AsyncGenerator[bytes, None]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise gone()
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


def _too_large(limit: int) -> ServiceError:
    message = f"service: body must be at most {limit:,} bytes, got more"
    return ServiceError(413, "body_too_large", message, None, {"Connection": "close"})


def gone() -> ServiceError:
    """The client went away; nobody reads the answer."""
    return ServiceError(GONE, "client_gone", "service: client must wait for the answer, got none")


def read_form(headers: Headers, body: bytes) -> tuple[dict[str, Any], bytes | None]:
    """The fields of a multipart body as JSON values, and the uploaded image. Takes a while: not for the event loop.

    A field that is neither text by its meaning nor JSON is taken as text.

    Raises:
        ServiceError: 400 for a damaged body, 422 for a field that comes twice.
    """
    return asyncio.run(_read_form(headers, body))


async def _read_form(headers: Headers, body: bytes) -> tuple[dict[str, Any], bytes | None]:
    async def whole() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    try:
        form = await Parser(
            headers, whole(), max_files=1, max_fields=MAX_FIELDS, max_part_size=max(1, len(body))
        ).parse()
    except (MultiPartException, KeyError, ValueError, LookupError) as error:
        raise ServiceError(400, "invalid_form", "service: body must be a multipart form, got a damaged one") from error
    fields: dict[str, Any] = {}
    image = None
    for name, value in form.multi_items():
        if name in fields or (name == "image" and image is not None):
            raise ServiceError(422, "invalid_field", f"service: {name} must come once, got it twice", name)
        if not isinstance(value, UploadFile):
            fields[name] = value if name in TEXTS else _json_or_text(value)
        elif name == "image":
            image = await value.read()
        else:
            raise ServiceError(422, "invalid_field", "service: file must be the field image, got another", "image")
    return fields, image


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


async def disconnected(receive: Receive) -> None:
    """Returns when the client has gone. The body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client goes away.

    Raises:
        ServiceError: 499 if it does.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise gone()
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
