"""`EventStream`: server-sent events that end when the client goes away or takes none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from dcam_fast.service.requests import disconnected

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
PING = b": ping\n\n"


def event(data: str, name: str | None = None, number: int | None = None) -> bytes:
    """One event. `data` is one line.

    >>> event('{"a":1}', "step", 3)
    b'id: 3\\nevent: step\\ndata: {"a":1}\\n\\n'
    """
    head = ("" if number is None else f"id: {number}\n") + ("" if name is None else f"event: {name}\n")
    return f"{head}data: {data}\n\n".encode()


class EventStream(Response):
    """Sends events as they come. `events` is closed in any case, and then `closing` is called.

    Args:
        events: the events.
        closing: gives back what the stream held.
        ping_seconds: between comments that keep a silent stream open.
        send_seconds: in which the client must take an event.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        closing: Callable[[], None],
        ping_seconds: float,
        send_seconds: float,
    ) -> None:
        self.status_code = 200
        self.background = None
        self._events, self._closing = events, closing
        self._ping_seconds, self._send_seconds = ping_seconds, send_seconds
        self.init_headers(HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events; ASGI's interface."""
        leaving = asyncio.ensure_future(disconnected(receive))
        following = asyncio.ensure_future(anext(self._events, None))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while True:
                await asyncio.wait(
                    {following, leaving}, timeout=self._ping_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                if leaving.done():
                    return
                chunk: bytes | None = PING
                if following.done():
                    chunk = following.result()
                    following = asyncio.ensure_future(anext(self._events, None))
                if chunk is None:
                    break
                async with asyncio.timeout(self._send_seconds):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            return  # the server closes a connection whose answer is not complete
        finally:
            for task in (leaving, following):
                task.cancel()
            await asyncio.gather(leaving, following, return_exceptions=True)
            await self._events.aclose()
            self._closing()
