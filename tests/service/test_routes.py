"""Every route, with the embedded model."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from serving import Running, asynchronous, data_url, png, running

from dcam_fast import Explainer, Explanation, Generation, GivenAnswer, sample_image
from dcam_fast.output.record import record_of
from dcam_fast.service import middleware
from dcam_fast.service.logs import JsonFormatter

STEPS = {"generation": {"steps": 4}}
GENERATION = Generation(steps=4)
PICTURE = sample_image()


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(Explainer.from_pretrained("tiny").adapter, encodings=2)


@pytest.fixture(scope="module")
def plain() -> Explanation:
    """What the service must answer."""
    return Explainer.from_pretrained("tiny").explain(PICTURE, targets=["circle"], generation=GENERATION)


def check_same(record: dict[str, Any], expected: Explanation) -> None:
    """The record is that of the explanation, but for its id and its seconds."""
    expected_record = json.loads(json.dumps(record_of(expected)))
    for found in (record, expected_record):
        found["provenance"] = {k: v for k, v in found["provenance"].items() if k != "seconds"}
    assert {key: value for key, value in record.items() if key != "id"} == expected_record


def events_of(text: str) -> list[tuple[int, str, dict[str, Any]]]:
    found = re.findall(r"id: (\d+)\nevent: (\w+)\ndata: (.*)\n\n", text)
    assert "".join(f"id: {i}\nevent: {name}\ndata: {data}\n\n" for i, name, data in found) == text
    return [(int(number), name, json.loads(data)) for number, name, data in found]


async def ask(at: Running, **fields: Any) -> Any:
    return await at.client.post("/v1/explanations", json={"image": data_url(picture()), **STEPS, **fields})


@asynchronous
async def test_an_explanation_in_every_format(explainer: Explainer, plain: Explanation) -> None:
    async with running(explainer) as at:
        answer = await ask(at, targets=["circle"], raw_maps=True)
        assert answer.status_code == 200
        record = answer.json()
        raw = record.pop("raw_maps")
        assert raw["shape"] == record["maps"]["shape"] == [1, 16, 16]
        check_same(dict(record), plain)
        assert answer.headers["content-location"] == f"/v1/runs/{record['id']}"

        page = await at.client.get(f"/v1/runs/{record['id']}/page")
        assert page.headers["content-type"].startswith("text/html")
        assert "sandbox allow-scripts" in page.headers["content-security-policy"]
        again = await at.client.get(f"/v1/runs/{record['id']}")
        assert again.json() == record
        image = await at.client.get(f"/v1/runs/{record['id']}/image.png")
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(image.content))), PICTURE)
        arrays = np.load(io.BytesIO((await at.client.get(f"/v1/runs/{record['id']}/maps.npz")).content))
        for name in ("maps", "raw_maps", "boxes"):
            assert np.array_equal(arrays[name], getattr(plain, name).numpy())

        for accept, kind in (
            ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html"),
            ("image/png", "image/png"),
            ("*/*", "application/json"),
            ("application/json, text/html", "application/json"),
        ):
            headers = {"Accept": accept}
            body = {"image": data_url(picture()), "targets": ["circle"], **STEPS}
            answer = await at.client.post("/v1/explanations", json=body, headers=headers)
            assert answer.headers["content-type"].startswith(kind), accept
            if kind == "image/png":
                assert Image.open(io.BytesIO(answer.content)).size == plain.contact_sheet().size


@asynchronous
async def test_an_upload_is_the_same_as_json(explainer: Explainer, plain: Explanation) -> None:
    async with running(explainer) as at:
        fields = {"targets": '["circle"]', "generation": '{"steps": 4}', "prompt": plain.prompt}
        answer = await at.client.post("/v1/explanations", files={"image": ("../x", picture())}, data=fields)
        check_same(answer.json(), plain)
        fields["image"] = base64.b64encode(picture()).decode()
        answer = await at.client.post("/v1/explanations", data=fields, files={"none": b""})
        assert answer.status_code == 422, "another file"
        answer = await at.client.post("/v1/explanations", files={"image": picture()}, data={"targets": "all", **fields})
        assert answer.status_code == 422, "two images"


@pytest.mark.parametrize("form", ["answer", "tokens", "steps"])
@asynchronous
async def test_an_answer_of_another_engine(explainer: Explainer, plain: Explanation, form: str) -> None:
    written = explainer.adapter.generate(explainer.encode(PICTURE), GENERATION)  # with end token and padding
    assert written.steps is not None
    tokens, steps = written.tokens.tolist(), written.steps.tolist()
    given: dict[str, Any] = {
        "answer": {"answer": plain.answer},
        "tokens": {"tokens": tokens},
        "steps": {"tokens": tokens, "steps": steps},
    }[form]
    expected = Explainer(explainer.adapter).explain(
        PICTURE,
        targets=["circle"],
        answer=given.get("answer") or GivenAnswer(tuple(tokens), tuple(steps) if form == "steps" else None),  # type: ignore[arg-type]
    )
    async with running(explainer) as at:
        answer = await ask(at, targets=["circle"], **given)
        assert answer.status_code == 200, answer.text
        check_same(answer.json(), expected)
        assert at.service.metrics.registry.get_sample_value("dcam_generate_seconds_count") == 0


@asynchronous
async def test_a_stream_has_the_steps_and_then_the_explanation(explainer: Explainer) -> None:
    expected = Explainer(explainer.adapter).stream(PICTURE, generation=GENERATION)
    steps = list(expected)
    async with running(explainer) as at:
        answer = await at.client.post("/v1/explanations/stream", json={"image": data_url(picture()), **STEPS})
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-accel-buffering"] == "no"
        events = events_of(answer.text)
        assert [(number, name) for number, name, _ in events] == [*((i, "step") for i in range(4)), (4, "explanation")]
        for step, (_, _, data) in zip(steps, events, strict=False):
            assert data["text"] == step.text
            assert [item["text"] for item in data["canvas"]] == list(step.canvas)
            assert [token["position"] for token in data["tokens"]] == [token.position for token in step.tokens]
            values = np.frombuffer(base64.b64decode(data["maps"]["data"]), np.uint8).reshape(data["maps"]["shape"])
            assert np.array_equal(values, (step.maps * 255).round().to(torch.uint8).numpy())
        check_same(events[-1][2], expected.explanation())
        assert (await at.client.get(f"/v1/runs/{events[-1][2]['id']}")).status_code == 200


@asynchronous
async def test_the_same_image_is_encoded_once(explainer: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, encoded = explainer.adapter, []
    original = adapter.encode
    monkeypatch.setattr(adapter, "encode", lambda *arguments: encoded.append(arguments) or original(*arguments))
    async with running(Explainer(adapter, encodings=2)) as at:
        encoded.clear()
        first, second = await ask(at, targets=["circle"]), await ask(at, targets=[0, "circle"])
        other = await at.client.post("/v1/explanations", json={"image": data_url(png()), "targets": [], **STEPS})
        assert [answer.status_code for answer in (first, second, other)] == [200] * 3
        assert len(encoded) == 1, "the first image is also that of warming up"
        assert len(second.json()["targets"]) == 2


@asynchronous
async def test_errors_of_the_model_name_the_field(explainer: Explainer) -> None:
    async with running(explainer) as at:
        for fields, param in (
            ({"targets": ["elephant"]}, "target"),
            ({"targets": [1000]}, "target"),
            ({"prompt": "what is an elephant"}, "prompt"),
            ({"answer": "an elephant"}, "answer"),
        ):
            answer = await ask(at, **fields)
            assert answer.status_code == 422, answer.text
            assert answer.json()["error"]["param"] == param


@asynchronous
async def test_small_routes(explainer: Explainer) -> None:
    async with running(explainer) as at:
        models = (await at.client.get("/v1/models")).json()
        assert [model["id"] for model in models["data"]] == ["tiny"]
        assert (await at.client.get("/v1/models/tiny")).json() == models["data"][0]
        samples = (await at.client.get("/v1/samples")).json()["data"]
        for sample in samples:
            content = (await at.client.get(sample["url"])).content
            assert Image.open(io.BytesIO(content)).size == (128, 128)
        assert np.array_equal(
            np.asarray(Image.open(io.BytesIO((await at.client.get("/v1/samples/0.png")).content))), PICTURE
        )
        page = await at.client.get("/")
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert "unsafe" not in page.headers["content-security-policy"]
        assert (await at.client.get("/viewer.js")).headers["content-type"].startswith("text/javascript")
        assert (await at.client.get("/viewer.css")).headers["content-type"].startswith("text/css")
        for path in ("/health", "/ready"):
            for method in ("GET", "HEAD"):  # probes of load balancers
                answer = await at.client.request(method, path)
                assert (answer.status_code, answer.content) == (200, b"")
        paths = (await at.client.get("/openapi.json")).json()["paths"]
        assert {"/v1/explanations", "/v1/explanations/stream", "/v1/chat/completions"} <= paths.keys()


@asynchronous
async def test_unknown_paths_and_methods_have_the_shape_of_errors() -> None:
    async with running() as at:
        for method, path, status in (
            ("GET", "/nothing", 404),
            ("GET", "/v1/runs/unknown", 404),
            ("GET", "/v1/runs/unknown/page", 404),
            ("GET", "/v1/models/unknown", 404),
            ("GET", "/v1/explanations", 405),
            ("DELETE", "/health", 405),
        ):
            answer = await at.client.request(method, path)
            assert answer.status_code == status
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@asynchronous
async def test_every_answer_has_its_headers() -> None:
    async with running() as at:
        for path in ("/", "/health", "/nothing", "/metrics"):
            answer = await at.client.get(path, headers={"X-Request-Id": "mine-1"})
            assert answer.headers["x-request-id"] == "mine-1"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
        for bad in ("", "a b", "x" * 65, "a\tb", "é"):
            answer = await at.client.get("/health", headers={"X-Request-Id": bad.encode()})
            assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


@asynchronous
async def test_metrics(explainer: Explainer) -> None:
    async with running(explainer) as at:
        await ask(at, targets=["circle", 0], method="grad_cam")
        await at.client.get("/nothing")
        text = (await at.client.get("/metrics")).text
        for line in (
            'dcam_requests_total{route="/v1/explanations",status="200"} 1.0',
            'dcam_requests_total{route="other",status="404"} 1.0',
            "dcam_requests_in_flight 1.0",
            "dcam_queue_length 0.0",
            "dcam_queue_seconds_count 2.0",
            "dcam_generate_seconds_count 1.0",
            "dcam_explain_seconds_count 1.0",
            "dcam_groundedness_count 2.0",
            'dcam_maps_total{method="grad_cam"} 2.0',
            "dcam_runs 1.0",
        ):
            assert line in text.splitlines(), line


@asynchronous
async def test_logs_have_the_id_and_no_content(explainer: Explainer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dcam_fast")
    formatter = JsonFormatter()
    lines: list[str] = []
    caplog.handler.emit = lambda record: lines.append(formatter.format(record))  # type: ignore[method-assign]
    async with running(explainer) as at:
        lines.clear()
        body = {"image": data_url(picture()), "prompt": "describe the image", **STEPS}
        answer = await at.client.post("/v1/explanations", json=body, headers={"X-Request-Id": "mine-2"})
    entries = [json.loads(line) for line in lines]
    ours = [entry for entry in entries if entry.get("request_id") == "mine-2"]
    assert {entry["logger"] for entry in ours} == {"dcam_fast.session", middleware.__name__}
    (request,) = [entry for entry in ours if entry["message"] == "request"]
    assert (request["route"], request["method"], request["status"]) == ("/v1/explanations", "POST", 200)
    for line in lines:
        assert "describe the image" not in line
        assert answer.json()["answer"] not in line


def test_the_log_of_an_exception_has_its_places_and_not_its_message() -> None:
    try:
        raise ValueError("the secret prompt")
    except ValueError as error:
        record = logging.LogRecord(
            "name", logging.ERROR, "file", 1, "failed", (), (type(error), error, error.__traceback__)
        )
    line = JsonFormatter().format(record)
    assert "secret" not in line
    assert json.loads(line)["exception"] == "ValueError"
    assert "test_routes.py" in json.loads(line)["frames"][0]


@asynchronous
async def test_kept_runs_are_bounded() -> None:
    async with running(runs=2) as at:
        ids = [(await at.explain()).json()["id"] for _ in range(3)]
        statuses = [(await at.client.get(f"/v1/runs/{identifier}")).status_code for identifier in ids]
        assert statuses == [404, 200, 200]
        assert len(set(ids)) == 3
    async with running(runs_bytes=8000) as at:
        ids = [(await at.explain()).json()["id"] for _ in range(2)]
        statuses = [(await at.client.get(f"/v1/runs/{identifier}")).status_code for identifier in ids]
        assert statuses == [404, 200], "an image has 7200 bytes"


@asynchronous
async def test_a_contrast(explainer: Explainer) -> None:
    async with running(explainer) as at:
        answer = await ask(at, targets=[{"word": "circle", "instead": "ring"}])
        assert answer.status_code == 200, answer.text
        (target,) = answer.json()["targets"]
        assert target["instead"] == "ring"
        answer = await ask(at, targets=[{"word": "circle", "instead": ""}])
        assert answer.status_code == 422
