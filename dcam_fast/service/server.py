"""`serve`: the service under uvicorn, until a signal ends it."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import signal
import socket
from types import FrameType
from typing import Final

import uvicorn
from fastapi import FastAPI

from dcam_fast.service.connections import Connection
from dcam_fast.service.state import Service

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
LAST_ANSWERS: Final = 10.0  # seconds in which cancelled requests get their answers


class Server(uvicorn.Server):
    """Ends in order: at a signal it takes no more requests and finishes those it has; the second signal kills it."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The handler of SIGTERM and SIGINT."""
        signal.signal(sig, signal.SIG_DFL)
        self._service.worker.drain()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Waits for the requests that are left; those that take too long are cancelled."""
        seconds = self._service.settings.drain_seconds
        limit = asyncio.get_running_loop().call_later(seconds, self._service.cancel_all)
        await super().shutdown(sockets)
        limit.cancel()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        OSError: if the address cannot be used.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address[:2], family=family, backlog=1024)


def is_loopback(listener: socket.socket) -> bool:
    """Whether a socket listens to this machine alone, under whatever name its address was given."""
    address = ipaddress.ip_address(listener.getsockname()[0].partition("%")[0])
    inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (inner or address).is_loopback


def url_of(listener: socket.socket) -> str:
    """The address of a socket that listens, as a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server_of(app: FastAPI) -> Server:
    """A server of an application that `create_app` made; `run` it with a socket."""
    service: Service = app.state.service
    settings = service.settings
    connection = functools.partial(Connection, head_seconds=settings.body_seconds, read_seconds=settings.send_seconds)
    config = uvicorn.Config(
        app,
        http=connection,  # type: ignore[arg-type]  # it is called, with what a connection takes
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=int(settings.drain_seconds + LAST_ANSWERS),
    )
    return Server(config, service)
