"""Many requests: malformed ones, streams one after the other, and a signal in the middle."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
from typing import Any

import httpx
import pytest
import torch
from serving import IMAGE, FakeExplainer, RawRequest, asynchronous, chat, running

from dcam_fast.models.adapter import Trajectory
from dcam_fast.service import answering
from dcam_fast.service.answering import WrittenAnswer
from dcam_fast.service.state import HELPERS

BODIES = 10_000
STREAMS = 1000
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 1e400, 2**70, "", "a", "\0", "\ud800", "é" * 50, IMAGE, [], [[]], [None], ["a", 0], {},
    {"a": 1}, {"steps": "1"}, {"word": "a"}, "data:image/png;base64,AAAA", "http://127.0.0.1/", "file:///etc/passwd",
)  # fmt: skip
FIELDS = (
    "image", "prompt", "answer", "tokens", "steps", "targets", "method", "profile", "generation", "scores", "budget_ms",
    "raw_maps", "model", "messages", "max_tokens", "stop", "stream", "explain", "n", "temperature", "other", "",
)  # fmt: skip
KINDS = (
    "application/json", "application/json", "application/json", "", "text/plain", "multipart/form-data",
    "multipart/form-data; boundary=x", "multipart/form-data; boundary=x; charset=none",
    "multipart/form-data; boundary=\0",
)  # fmt: skip


def odd_value(rng: random.Random) -> Any:
    """A value that hardly fits its field."""
    return rng.choice(ODD)


def odd_body(rng: random.Random) -> bytes:
    """A body that is JSON with odd fields, damaged JSON, a damaged form or noise."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randbytes(rng.randrange(40))
    if kind == 1:
        name = rng.choice(FIELDS)
        value = json.dumps(odd_value(rng)).encode()
        part = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="../a"\r\n\r\n'.encode() + value
        whole = part + b"\r\n--x--\r\n"
        return whole[: rng.randrange(len(whole) + 1)]
    fields: dict[str, Any] = chat() if rng.random() < 0.5 else {"image": IMAGE}
    for _ in range(rng.randrange(1, 4)):
        fields[rng.choice(FIELDS)] = odd_value(rng)
    whole = json.dumps(fields).encode()
    if kind == 2:
        whole = whole[: rng.randrange(len(whole))]
    return whole


@asynchronous
async def test_no_malformed_body_is_an_error_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.zeros(2, dtype=torch.int64)
    written = WrittenAnswer("a ring", 2, True, 9, 0.1, Trajectory(tokens, tokens, 2))
    monkeypatch.setattr(answering, "answer", lambda *_: written)
    rng = random.Random(0)
    async with running(FakeExplainer()) as at:
        for number in range(BODIES):
            path = rng.choice(("/v1/explanations", "/v1/explanations/stream", "/v1/chat/completions"))
            body, kind = odd_body(rng), rng.choice(KINDS)
            request = RawRequest(path, body)
            request.scope["headers"][1] = (b"content-type", kind.encode())
            await request.run(at.app)
            assert request.status in (200, 400, 404, 413, 422), (number, path, kind, body)
        sample = at.service.metrics.registry.get_sample_value
        assert sample("dcam_queue_length") == sample("dcam_requests_in_flight") == 0
        assert (await at.client.get("/ready")).status_code == 200


def threads_but_helpers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.name.startswith("dcam-helper")}


@asynchronous
async def test_streams_leave_nothing_behind() -> None:
    async with running(FakeExplainer(), runs=4) as at:

        async def one(gone: bool) -> None:
            request = RawRequest("/v1/explanations/stream", {"image": IMAGE})

            async def leave(message: dict[str, Any]) -> None:
                request.gone.set()

            request.taken = leave if gone else None
            await request.run(at.app)

        await one(False)
        await one(True)
        await asyncio.to_thread(lambda: None)
        threads, tasks = threads_but_helpers(), len(asyncio.all_tasks())
        for number in range(STREAMS):
            await one(number % 4 == 3)
        await at.service.worker.submit(lambda job: None).result()  # the last stream has ended
        gc.collect()
        assert threads_but_helpers() == threads
        assert threading.active_count() - len(threads) <= HELPERS
        assert len(asyncio.all_tasks()) <= tasks
        sample = at.service.metrics.registry.get_sample_value
        assert sample("dcam_queue_length") == sample("dcam_requests_in_flight") == 0
        assert not at.service.worker._waiting
        assert len(at.service.runs) == 4
        assert all(stream.closed.is_set() for stream in at.service.explainer.streams)  # type: ignore[attr-defined]


def queue_length(url: str) -> int:
    text = httpx.get(f"{url}/metrics").text
    return next(int(float(line.split()[1])) for line in text.splitlines() if line.startswith("dcam_queue_length "))


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
def test_sigterm_under_load_finishes_what_runs_and_exits_with_0() -> None:
    command = [sys.executable, "-m", "dcam_fast", "serve", "--port", "0", "--drain", "120"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:"), process.communicate()
            statuses: list[int] = []

            def ask(path: str) -> None:
                statuses.append(httpx.post(f"{url}{path}", json={"image": IMAGE}, timeout=None).status_code)

            paths = ["/v1/explanations", "/v1/explanations/stream"] * 2
            threads = [threading.Thread(target=ask, args=(path,)) for path in paths]
            for thread in threads:
                thread.start()
            while len(statuses) + queue_length(url) < len(paths):
                pass
            process.send_signal(signal.SIGTERM)
            for thread in threads:
                thread.join()
            _, logs = process.communicate()
        finally:
            process.kill()
    assert process.returncode == 0, logs
    assert statuses == [200] * 4
    assert {json.loads(line)["level"] for line in logs.splitlines()} == {"INFO"}
    assert "Application shutdown complete." in logs
