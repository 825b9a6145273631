"""Connections whose clients ask, send or read nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import httpx
import pytest
from serving import FakeExplainer, RawRequest, asynchronous, listening, running


@asynchronous
async def test_the_end_does_not_wait_for_bodies() -> None:
    explainer = FakeExplainer()
    async with running(explainer) as at:
        for path in ("/v1/explanations", "/v1/chat/completions"):
            request, waits = RawRequest(path, b""), asyncio.Event()

            async def receive(waits: asyncio.Event = waits) -> dict[str, object]:
                waits.set()
                return await asyncio.Event().wait()  # type: ignore[return-value]

            request.receive = receive  # type: ignore[method-assign]
            answering = asyncio.ensure_future(request.run(at.app))
            await waits.wait()
            at.service.cancel_all()
            await answering
            assert request.status == 503, path
        late = await at.explain()
        assert (late.status_code, late.json()["error"]["code"]) == (503, "shutting_down"), "its body came later"
        assert len(explainer.calls) == 1, "nothing but warming up"
        assert not at.service._reading


@pytest.mark.parametrize(
    "sent", [b"", b"GET /health HTTP/1.1\r\nHost: ", b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET "]
)
def test_a_connection_without_a_request_is_ended(sent: bytes) -> None:
    with listening(body_seconds=0.05) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client, contextlib.suppress(ConnectionResetError):
            client.sendall(sent)
            while client.recv(4096):
                pass
        assert httpx.get(f"{url}/health").status_code == 200


def test_a_connection_whose_client_reads_nothing_is_ended() -> None:
    with listening(send_seconds=0.05) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((host, int(port)))
            with contextlib.suppress(ConnectionError):
                while True:
                    client.sendall(b"GET /viewer.js HTTP/1.1\r\nHost: a\r\n\r\n")
