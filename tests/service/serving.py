"""Services for tests: in this event loop, or on a port of this machine."""

from __future__ import annotations

import needs_serve  # noqa: F401, skips the tests that lack a package

# isort: split

import asyncio
import base64
import contextlib
import functools
import io
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ParamSpec

import httpx
import numpy as np
import torch
from PIL import Image

from dcam_fast.explained_answer import Target, Token
from dcam_fast.explanation import Explanation
from dcam_fast.images import grid_boxes
from dcam_fast.service import ServiceSettings, create_app, server
from dcam_fast.service.state import Service
from dcam_fast.streaming import Step

P = ParamSpec("P")


def asynchronous(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test that runs in a new event loop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def png(height: int = 40, width: int = 60, **options: Any) -> bytes:
    """A picture of noise as a file."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "png", **options)
    return buffer.getvalue()


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


IMAGE = data_url(png())


def chat(**fields: Any) -> dict[str, Any]:
    """A question about the image, as OpenAI's API has it."""
    parts = [{"type": "text", "text": "what"}, {"type": "image_url", "image_url": {"url": IMAGE}}]
    return {"model": "fake", "messages": [{"role": "user", "content": parts}], **fields}


def explanation_of(targets: tuple[str, ...] = ("ring",)) -> Explanation:
    """An explanation of noise that no model made."""
    maps = torch.linspace(0, 1, len(targets) * 15).reshape(len(targets), 3, 5)
    words = ("a", "red", "ring")
    return Explanation(
        image=np.zeros((40, 60, 3), np.uint8),
        prompt="what",
        answer=" ".join(words),
        tokens=tuple(Token(word, index, index, index) for index, word in enumerate(words)),
        targets=tuple(Target(text, (words.index(text),), 0.5, 0.5, 0.5) for text in targets),
        maps=maps,
        raw_maps=maps,
        boxes=grid_boxes((3, 5), (40, 60)),
        provenance={"answer": "generated", "method": "default", "seconds": {"generate": 0.5, "explain": 0.25}},
    )


def step_of(index: int) -> Step:
    maps = torch.zeros(1, 3, 5)
    token = Token("a", 1, index, index)
    return Step(index, "a _", ("a", None), (token,), maps, maps, grid_boxes((3, 5), (40, 60)), {"generate": 0.1})


class FakeStream:
    """Three steps; `before` runs before each."""

    def __init__(self, before: Callable[[int], None]) -> None:
        self.before = before
        self.index = 0
        self.closed = threading.Event()

    def __iter__(self) -> FakeStream:
        return self

    def __next__(self) -> Step:
        if self.index == 3:
            raise StopIteration
        self.before(self.index)
        self.index += 1
        return step_of(self.index - 1)

    def close(self) -> None:
        self.closed.set()

    def explanation(self, targets: Any, *, scores: bool) -> Explanation:
        return explanation_of()


def nothing(*_: Any) -> None:
    pass


def fake_adapter() -> SimpleNamespace:
    return SimpleNamespace(name="fake", default_prompt="what", mask_token=0, decode=lambda tokens: "a")


@dataclass
class FakeExplainer:
    """Answers at once with the same explanation.

    Attributes:
        before_explain: runs in the worker's thread before each explanation but the first, which warms up.
        before_step: runs before each step of a stream, with its index.
        calls: the arguments of each call of `explain` and `stream`.
        streams: that were made.
    """

    before_explain: Callable[[], None] = nothing
    before_step: Callable[[int], None] = nothing
    calls: list[dict[str, Any]] = field(default_factory=list)
    streams: list[FakeStream] = field(default_factory=list)
    adapter: Any = field(default_factory=fake_adapter)

    def explain(self, image: Any, prompt: Any, targets: Any, **options: Any) -> Explanation:
        self.calls.append({"image": image, "prompt": prompt, "targets": targets, **options})
        if len(self.calls) > 1:
            self.before_explain()
        return explanation_of()

    def stream(self, image: Any, prompt: Any, **options: Any) -> FakeStream:
        self.calls.append({"image": image, "prompt": prompt, **options})
        self.streams.append(FakeStream(self.before_step))
        return self.streams[-1]


@dataclass(frozen=True)
class Running:
    """A service in this event loop.

    Attributes:
        app: the application.
        client: of it.
    """

    app: Any
    client: httpx.AsyncClient

    @property
    def service(self) -> Service:
        return self.app.state.service

    async def explain(self, **fields: Any) -> httpx.Response:
        return await self.client.post("/v1/explanations", json={"image": IMAGE, **fields})


@contextlib.asynccontextmanager
async def running(explainer: Any = None, **settings: Any) -> AsyncIterator[Running]:
    """A warm service of an explainer."""
    app = create_app(explainer or FakeExplainer(), ServiceSettings(**settings))
    async with app.router.lifespan_context(app):
        await app.state.service.warming
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            yield Running(app, client)


@contextlib.contextmanager
def listening(explainer: Any = None, **settings: Any) -> Iterator[str]:
    """The URL of a service on a port of this machine, in a thread."""
    app = create_app(explainer or FakeExplainer(), ServiceSettings(**settings))
    running_server = server.server_of(app)
    with server.listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=running_server.run, args=([listener],))
        thread.start()
        try:
            yield server.url_of(listener)
        finally:
            running_server.should_exit = True
            thread.join()


class RawRequest:
    """A POST whose client can go away or stop reading: ASGI without a client library.

    Attributes:
        messages: what the application sent.
        gone: set when the client goes away.
        taken: called before a message is taken; the application waits for it.
    """

    def __init__(self, path: str, body: Any) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [(b"host", b"service"), (b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("service", 80),
        }
        self.parts = [content]
        self.messages: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self.taken: Callable[[dict[str, Any]], Awaitable[None]] | None = None

    async def receive(self) -> dict[str, Any]:
        if self.parts:
            return {"type": "http.request", "body": self.parts.pop(0), "more_body": bool(self.parts)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if self.taken is not None:
            await self.taken(message)
        self.messages.append(message)

    async def run(self, app: Any) -> None:
        await app(self.scope, self.receive, self.send)

    @property
    def status(self) -> int | None:
        return next((message["status"] for message in self.messages if "status" in message), None)
