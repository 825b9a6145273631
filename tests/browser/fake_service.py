"""A service that speaks the routes of the live page and answers from a script, one step at a time."""

from __future__ import annotations

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import numpy as np
import torch
from explanations import make
from PIL import Image

from dcam_fast.output import html
from dcam_fast.output.record import encode_boxes, encode_maps, record_of

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'"
)
WORDS = ("red", "Ring", "blue", "ring")


def hot(cells: list[int]) -> torch.Tensor:
    """Maps [n, 3, 5], each with one strongest cell."""
    maps = torch.zeros(len(cells), 15)
    maps[range(len(cells)), cells] = 1
    return maps.reshape(-1, 3, 5)


class FakeService:
    """Serves on a free port of this machine.

    Attributes:
        bodies: of the requests for explanations, in order.
        steps: how many steps a stream may send; a test releases them.
        gone: set when a client has left in the middle of a stream.
        key: the key that requests must have; None: any.
        failure: the error that the next request for an explanation gets.
    """

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.steps = threading.Semaphore(0)
        self.gone = threading.Event()
        self.key: str | None = None
        self.failure: tuple[int, str] | None = None
        self.explanation = make(targets=WORDS)
        handler = type("Handler", (Handler,), {"service": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/"

    def record(self, **changes: Any) -> dict[str, Any]:
        """The answer to a request: maps whose strongest cells are 10, 11, 12 and 13, and alternatives for each word."""
        record = {"id": "run-1", **record_of(self.explanation), "maps": encode_maps(hot([10, 11, 12, 13]))}
        for target in record["targets"]:
            own = next(token for token in record["tokens"] if token["position"] == target["positions"][0])
            target |= {"image_share": 0.25, "prompt_share": None, "answer_share": 0.5}
            target["alternatives"] = [
                [
                    {"text": own["text"], "id": own["id"], "probability": 0.75},
                    {"text": "other", "id": 999, "probability": 0.125},
                ]
            ]
        record["provenance"]["claims"] = {"output": {"text": "The answer is explained.", "words": 4}}
        return record | changes

    def events(self) -> list[dict[str, Any]]:
        """The steps: each writes one token of the answer, whose map has its strongest cell at the token's position."""
        texts = [token.text for token in self.explanation.tokens]
        order = sorted(range(len(texts)), key=lambda position: (self.explanation.tokens[position].step, position))
        events = []
        for index, position in enumerate(order):
            canvas = [{"text": text if place in order[: index + 1] else None} for place, text in enumerate(texts)]
            events.append(
                {
                    "index": index,
                    "text": " ".join(item["text"] or "_" for item in canvas),
                    "canvas": canvas,
                    "tokens": [{"position": position, "id": 7 * position, "text": texts[position], "step": index}],
                    "maps": encode_maps(hot([position])),
                    "boxes": encode_boxes(self.explanation.boxes),
                    "seconds": {"generate": 0.01, "explain": 0.01},
                }
            )
        return events


class Handler(BaseHTTPRequestHandler):
    """One request."""

    service: FakeService
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def send(self, content: bytes | str | dict[str, Any], kind: str = "application/json", status: int = 200) -> None:
        if isinstance(content, dict):
            content = json.dumps(content)
        data = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(data)

    def refused(self) -> bool:
        """Whether the request lacks the key, or is to fail; it is answered then."""
        service = self.service
        if service.key is not None and self.headers["Authorization"] != f"Bearer {service.key}":
            self.send({"error": {"message": "a key is needed", "type": "authentication"}}, status=401)
            return True
        return False

    def do_GET(self) -> None:
        files = {
            "/": (html.live_page("fake", "what is there ?"), "text/html"),
            "/viewer.js": (html.viewer_script(), "text/javascript"),
            "/viewer.css": (html.viewer_style(), "text/css"),
        }
        path = self.path.partition("?")[0]
        if path in files:
            self.send(*files[path])
        elif not self.refused():
            self.answer(path)

    def answer(self, path: str) -> None:
        """Answers a request for data."""
        image = io.BytesIO()
        Image.fromarray(self.service.explanation.image).save(image, "png")
        contents: dict[str, tuple[Any, str]] = {
            "/v1/samples": ({"data": [{"name": "noise"}]}, "application/json"),
            "/v1/samples/0.png": (image.getvalue(), "image/png"),
            "/v1/runs/run-1": (self.service.record(), "application/json"),
            "/v1/runs/run-1/image.png": (image.getvalue(), "image/png"),
            "/v1/runs/run-1/page": (self.service.explanation.to_html(), "text/html"),
            "/v1/runs/run-1/maps.npz": (self.arrays(), "application/octet-stream"),
        }
        missing = {"error": {"message": "there is no such run", "type": "not_found"}}
        if path in contents:
            self.send(*contents[path])
        else:
            self.send(missing, status=404)

    def arrays(self) -> bytes:
        """The arrays of the explanation, as a file."""
        file = io.BytesIO()
        np.savez(file, maps=self.service.explanation.maps.numpy())
        return file.getvalue()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.refused():
            return
        self.service.bodies.append(body)
        if self.service.failure:
            status, message = self.service.failure
            self.send({"error": {"message": message, "type": "invalid_request"}}, status=status)
        elif self.path == "/v1/explanations/stream":
            self.stream()
        else:
            self.send(self.service.record())

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        events = [*(("step", event) for event in self.service.events()), ("explanation", self.service.record())]
        try:
            for name, event in events:
                while not self.service.steps.acquire(timeout=0.02):
                    self.write(": ping\n\n")
                self.write(f"id: {event.get('index', 'last')}\r\nevent: {name}\r\ndata: {json.dumps(event)}\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.service.gone.set()

    def write(self, text: str) -> None:
        self.wfile.write(text.encode())
        self.wfile.flush()
