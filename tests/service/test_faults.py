"""What goes wrong: in the worker, at the client, and at the end of the service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import httpx
import pytest
import torch
from serving import IMAGE, FakeExplainer, RawRequest, asynchronous, listening, running

from dcam_fast.explanation import Explanation
from dcam_fast.service.errors import ServiceError
from dcam_fast.service.metrics import Metrics
from dcam_fast.service.worker import Job, Worker


def raising(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (KeyError("secret"), 500, "internal_error", None),
        (ValueError("secret of torch"), 500, "internal_error", None),
        (MemoryError(), 503, "out_of_memory", None),
        (torch.OutOfMemoryError("secret"), 503, "out_of_memory", None),
        (ValueError("explain: target must be words of the answer (a ring), got 'dog'"), 422, "invalid_value", "target"),
        (TimeoutError(), 504, "deadline_exceeded", None),
    ],
)
@asynchronous
async def test_a_failure_is_its_request_s_alone(error: Exception, status: int, code: str, param: str | None) -> None:
    explainer = FakeExplainer(raising(error), lambda index: raising(error)())
    async with running(explainer) as at:
        for path in ("/v1/explanations", "/v1/explanations/stream"):
            answer = await at.client.post(path, json={"image": IMAGE})
            assert answer.status_code == status
            found = answer.json()["error"]
            assert (found["code"], found["param"]) == (code, param)
            assert "secret" not in answer.text
        explainer.before_explain = lambda: None
        assert (await at.explain()).status_code == 200, "the worker goes on"


@asynchronous
async def test_a_failure_after_the_first_step_is_an_event() -> None:
    def fail(index: int) -> None:
        if index == 1:
            raise MemoryError

    async with running(FakeExplainer(before_step=fail)) as at:
        answer = await at.client.post("/v1/explanations/stream", json={"image": IMAGE})
        assert answer.status_code == 200
        events = [line for line in answer.text.splitlines() if line.startswith("event")]
        assert events == ["event: step", "event: error"]
        assert '"code":"out_of_memory"' in answer.text


@asynchronous
async def test_a_client_that_goes_away_stops_its_stream_at_the_next_step() -> None:
    reached, goes_on = threading.Event(), threading.Event()

    def wait(index: int) -> None:
        if index == 1:
            reached.set()
            goes_on.wait()

    explainer = FakeExplainer(before_step=wait)
    async with running(explainer) as at:
        request = RawRequest("/v1/explanations/stream", {"image": IMAGE})
        answering = asyncio.ensure_future(request.run(at.app))
        await asyncio.to_thread(reached.wait)
        request.gone.set()
        await answering
        goes_on.set()
        (stream,) = explainer.streams
        await asyncio.to_thread(stream.closed.wait)
        assert stream.index == 2, "the third step never ran"
        assert at.service.metrics.registry.get_sample_value("dcam_queue_length") == 0


@pytest.mark.parametrize("path", ["/v1/explanations", "/v1/explanations/stream"])
@asynchronous
async def test_a_client_that_goes_away_in_the_queue_costs_nothing(path: str) -> None:
    reached, goes_on = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        goes_on.wait()

    explainer = FakeExplainer(wait)
    async with running(explainer) as at:
        first = asyncio.ensure_future(at.explain())
        await asyncio.to_thread(reached.wait)
        request = RawRequest(path, {"image": IMAGE})
        second = asyncio.ensure_future(request.run(at.app))
        while not at.service.worker._waiting:
            await asyncio.sleep(0)
        request.gone.set()
        await second
        assert not at.service.worker._waiting, "its image is not kept"
        goes_on.set()
        assert (await first).status_code == 200
        assert request.status in (None, 499)
        assert len(explainer.calls) == 2, "warming up and the first request"
        assert (await at.client.get("/metrics")).text.count('status="499"') >= 1


@asynchronous
async def test_a_client_that_takes_nothing_is_left() -> None:
    explainer = FakeExplainer()
    async with running(explainer, send_seconds=0.01) as at:
        request = RawRequest("/v1/explanations/stream", {"image": IMAGE})

        async def never(message: dict[str, object]) -> None:
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

        request.taken = never
        await request.run(at.app)
        assert [message["type"] for message in request.messages] == ["http.response.start"]
        assert at.service.metrics.registry.get_sample_value("dcam_queue_length") == 0
        assert (await at.explain()).status_code == 200


@asynchronous
async def test_a_silent_stream_is_kept_open_by_comments() -> None:
    goes_on = threading.Event()

    def wait(index: int) -> None:
        if index == 1:
            goes_on.wait()

    async with running(FakeExplainer(before_step=wait), ping_seconds=0.001) as at:
        request = RawRequest("/v1/explanations/stream", {"image": IMAGE})

        async def on_ping(message: dict[str, object]) -> None:
            if message.get("body") == b": ping\n\n":
                goes_on.set()

        request.taken = on_ping
        await request.run(at.app)
        assert goes_on.is_set()
        assert b"event: explanation" in b"".join(message.get("body", b"") for message in request.messages)


@asynchronous
async def test_a_full_queue_refuses_before_the_body_is_read() -> None:
    reached, goes_on = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        goes_on.wait()

    async with running(FakeExplainer(wait), queue=1) as at:
        first = asyncio.ensure_future(at.explain())
        await asyncio.to_thread(reached.wait)
        answer = await at.client.post("/v1/explanations", content=b"no JSON at all")
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["type"] == "rate_limit_error"
        assert (await at.client.get("/health")).status_code == 200
        goes_on.set()
        assert (await first).status_code == 200
        assert (await at.explain()).status_code == 200


@asynchronous
async def test_a_deadline_ends_the_wait_and_the_work() -> None:
    goes_on = threading.Event()
    explainer = FakeExplainer(before_step=lambda index: goes_on.wait() and None)
    async with running(explainer) as at:
        at.service.worker._mean = 0.0
        answer = await at.client.post(
            "/v1/explanations/stream", json={"image": IMAGE}, headers={"X-Request-Timeout": "0.05"}
        )
        goes_on.set()
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "deadline_exceeded"
        for stream in explainer.streams:
            await asyncio.to_thread(stream.closed.wait)
            assert stream.index <= 1


@asynchronous
async def test_a_deadline_that_cannot_be_met_is_refused() -> None:
    explainer = FakeExplainer()
    async with running(explainer) as at:
        at.service.worker._mean = 100.0
        answer = await at.client.post("/v1/explanations", json={"image": IMAGE}, headers={"X-Request-Timeout": "99"})
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "deadline_too_short"
        assert answer.headers["retry-after"] == "100"
        assert len(explainer.calls) == 1, "nothing but warming up"
        for text in ("0", "-1", "nan", "inf", "soon"):
            answer = await at.client.post(
                "/v1/explanations", json={"image": IMAGE}, headers={"X-Request-Timeout": text}
            )
            assert answer.status_code == 422


@asynchronous
async def test_the_end_refuses_new_requests_and_cancels_those_that_wait() -> None:
    reached, goes_on = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        goes_on.wait()

    async with running(FakeExplainer(wait)) as at:
        first, second = asyncio.ensure_future(at.explain()), asyncio.ensure_future(at.explain())
        await asyncio.to_thread(reached.wait)
        while not at.service.worker._waiting:
            await asyncio.sleep(0)
        at.service.worker.drain()
        refused = await at.explain()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert (await at.client.get("/ready")).status_code == 503
        assert (await at.client.get("/health")).status_code == 200
        at.service.worker.cancel_all()
        assert [(await first).status_code, (await second).status_code] == [503, 503], "before the step has ended"
        goes_on.set()


@asynchronous
async def test_not_ready_before_the_model_is_warm() -> None:
    async with running() as at:
        assert (await at.client.get("/ready")).status_code == 200
        at.service.is_warm = False
        answer = await at.client.get("/ready")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "starting")


@asynchronous
async def test_mean_duration_is_of_jobs_that_succeed() -> None:
    now = [0.0]

    def take(seconds: float, error: Exception | None = None) -> Callable[[Job], None]:
        def work(job: Job) -> None:
            now[0] += seconds
            if error is not None:
                raise error

        return work

    worker = Worker(4, Metrics(), clock=lambda: now[0])
    worker.start()
    try:
        await worker.submit(take(4.0)).result()
        with pytest.raises(ServiceError):
            await worker.submit(take(40.0, MemoryError())).result()
        with pytest.raises(ServiceError, match="must be more than 4 s with this queue, got 4 s"):
            worker.check_deadline(now[0] + 4.0, 0, 1)
        worker.check_deadline(now[0] + 5.0, 0, 1)
        with pytest.raises(ServiceError, match="must be more than 8 s with this queue, got 5 s"):
            worker.check_deadline(now[0] + 5.0, 1, 1)
    finally:
        await asyncio.to_thread(worker.close)


@asynchronous
async def test_a_budget_counts_from_the_request() -> None:
    reached, goes_on = threading.Event(), threading.Event()
    now = [0.0]

    def wait() -> None:
        reached.set()
        goes_on.wait()
        now[0] += 1.5

    explainer = FakeExplainer(wait)
    async with running(explainer) as at:
        at.service.worker.clock = lambda: now[0]
        at.service.worker._mean = 3.0
        first = asyncio.ensure_future(at.explain(budget_ms=1000))
        await asyncio.to_thread(reached.wait)
        refused = await at.explain(budget_ms=3000)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "deadline_too_short")
        second = asyncio.ensure_future(at.explain(budget_ms=4000))
        while not at.service.worker._waiting:
            await asyncio.sleep(0)
        goes_on.set()
        assert [(await first).status_code, (await second).status_code] == [200, 200]
        assert [call["budget_ms"] for call in explainer.calls[1:]] == [1000, 2500]


@asynchronous
async def test_a_budget_that_is_spent_in_the_queue_is_a_deadline_that_passed() -> None:
    reached, goes_on = threading.Event(), threading.Event()
    now = [0.0]

    def wait() -> None:
        reached.set()
        goes_on.wait()
        now[0] += 2.0

    explainer = FakeExplainer(wait)
    async with running(explainer) as at:
        at.service.worker.clock = lambda: now[0]
        at.service.worker._mean = 0.0
        first = asyncio.ensure_future(at.explain())
        await asyncio.to_thread(reached.wait)
        second = asyncio.ensure_future(at.explain(budget_ms=1000))
        while not at.service.worker._waiting:
            await asyncio.sleep(0)
        goes_on.set()
        assert (await first).status_code == 200
        answer = await second
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert len(explainer.calls) == 2, "warming up and the first request"


@asynchronous
async def test_a_stream_has_no_budget_and_no_given_answer() -> None:
    async with running() as at:
        for fields, param in (
            ({"budget_ms": 5000}, "budget_ms"),
            ({"answer": "a"}, "answer"),
            ({"tokens": [1]}, "answer"),
        ):
            answer = await at.client.post("/v1/explanations/stream", json={"image": IMAGE, **fields})
            assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)


@asynchronous
async def test_a_model_that_cannot_be_warmed_up_is_never_ready(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FakeExplainer):
        def explain(self, *arguments: object, **options: object) -> Explanation:
            raise MemoryError

    async with running(Broken()) as at:
        assert (await at.client.get("/ready")).status_code == 503
        assert (await at.client.get("/health")).status_code == 200
    assert "cannot be warmed up: out_of_memory" in caplog.text


def test_the_end_of_a_server_has_a_limit() -> None:
    reached, goes_on = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        goes_on.wait()

    found: list[httpx.Response] = []
    with listening(FakeExplainer(wait), drain_seconds=0.05) as url:
        body = {"image": IMAGE}
        threads = [
            threading.Thread(target=lambda: found.append(httpx.post(f"{url}/v1/explanations", json=body, timeout=None)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        reached.wait()
        while "dcam_queue_length 3.0" not in httpx.get(f"{url}/metrics").text:
            pass
        release = threading.Thread(target=lambda: [thread.join() for thread in threads] and goes_on.set())
        release.start()
    release.join()
    assert [answer.status_code for answer in found] == [503] * 3
