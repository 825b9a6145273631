"""`Connection`: a client's connection, which ends when the client neither asks nor reads."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """uvicorn's connection, with a limit to its silence. Without one it would be kept until the client closes it.

    Args:
        head_seconds: in which the head of the first or next request must arrive.
        read_seconds: in which the client must take a part of what waits for it.
    """

    def __init__(self, *arguments: Any, head_seconds: float, read_seconds: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_seconds, self._read_seconds = head_seconds, read_seconds
        self._asking: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self._wait_for_request(None)

    def on_response_complete(self) -> None:
        """An answer has gone out. The next request may have come already, and begins in here."""
        last = self.cycle
        super().on_response_complete()
        self._wait_for_request(last)

    def pause_writing(self) -> None:
        """More waits for the client than it takes."""
        super().pause_writing()
        self._wait_for_reading()

    def resume_writing(self) -> None:
        """The client has taken what waited."""
        _stop(self._reading)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        _stop(self._asking)
        _stop(self._reading)
        super().connection_lost(exc)

    def _wait_for_request(self, last: object) -> None:
        def end() -> None:
            if self.cycle is last:
                self.transport.abort()

        _stop(self._asking)
        self._asking = self.loop.call_later(self._head_seconds, end)

    def _wait_for_reading(self) -> None:
        before = self.transport.get_write_buffer_size()

        def end() -> None:
            if self.transport.get_write_buffer_size() >= before:
                self.transport.abort()
            else:
                self._wait_for_reading()

        self._reading = self.loop.call_later(self._read_seconds, end)


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
