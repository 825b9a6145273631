"""Who may ask, how much, and what never reaches the model."""

from __future__ import annotations

import asyncio
import base64
import io
import struct
import zipfile
import zlib
from typing import Any

import pytest
from PIL import Image
from serving import IMAGE, FakeExplainer, RawRequest, asynchronous, chat, data_url, png, running

from dcam_fast.service import images
from dcam_fast.service.errors import ServiceError

OPEN = ("/", "/health", "/ready", "/viewer.js", "/viewer.css")
CLOSED = ("/v1/models", "/v1/samples", "/v1/runs/x", "/metrics", "/openapi.json", "/nothing")


def png_of(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG file that claims a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """A small PNG file whose text unpacks to 64 MiB."""
    content = b"note\0\0" + zlib.compress(bytes(1 << 26))
    chunk = struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))
    whole = png(4, 4)
    return whole[:33] + chunk + whole[33:]


def zip_of_zeros() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.png", bytes(1 << 24))
    return buffer.getvalue()


@asynchronous
async def test_the_key_is_needed_for_everything_but_the_page() -> None:
    async with running(api_key="right") as at:
        for path in OPEN:
            assert (await at.client.get(path)).status_code == 200, path
        for path in CLOSED:
            for value in (
                None,
                "",
                "right",
                "Bearer wrong",
                "Bearer right ",
                "bearer right",
                "Basic right",
                "Bearer é",
            ):
                headers = {} if value is None else {"Authorization": value.encode()}
                answer = await at.client.get(path, headers=headers)
                assert answer.status_code == 401, (path, value)
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["error"]["type"] == "authentication_error"
        answer = await at.client.post(
            "/v1/explanations", json={"image": IMAGE}, headers={"Authorization": "Bearer right"}
        )
        assert answer.status_code == 200
        assert "right" not in repr(at.service.settings)


@asynchronous
async def test_other_names_and_other_pages_are_refused() -> None:
    async with running(hosts=frozenset({"localhost", "::1"})) as at:
        for host, status in (("localhost", 200), ("LOCALHOST:80", 200), ("[::1]:80", 200), ("evil.example", 400)):
            assert (await at.client.get("/health", headers={"Host": host})).status_code == status, host
    async with running() as at:
        for origin, status in (("http://service", 200), ("http://evil.example", 403), ("null", 403)):
            answer = await at.client.get("/v1/models", headers={"Origin": origin})
            assert answer.status_code == status, origin
            assert "access-control-allow-origin" not in answer.headers


@asynchronous
async def test_a_body_is_refused_by_its_length_before_it_is_read() -> None:
    async with running(max_body=1000) as at:
        request = RawRequest("/v1/explanations", b"")
        request.scope["headers"] += [(b"content-length", b"1001")]
        request.parts = []  # reading would wait for ever
        await request.run(at.app)
        assert request.status == 413
        answer = await at.client.post("/v1/explanations", content=bytes(1001))
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
        answer = await at.client.post("/v1/explanations", content=b"", headers={"content-length": "9" * 5000})
        assert answer.status_code == 413


@asynchronous
async def test_a_body_without_a_length_is_counted() -> None:
    async with running(max_body=1000) as at:
        request = RawRequest("/v1/explanations", b"")
        request.parts = [bytes(400)] * 1000
        await request.run(at.app)
        assert request.status == 413
        assert len(request.parts) == 997, "it reads no further"


@asynchronous
async def test_a_body_that_does_not_arrive_is_not_waited_for() -> None:
    async with running(body_seconds=0.01) as at:
        request = RawRequest("/v1/explanations", b"{")
        request.parts = [b"{", b""]
        original = request.receive

        async def receive() -> dict[str, Any]:
            return await original() if len(request.parts) == 2 else await asyncio.Event().wait()  # type: ignore[return-value]

        request.receive = receive  # type: ignore[method-assign]
        await request.run(at.app)
        assert request.status == 408


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (png_of(100_000, 100_000), 413),
        (png_of((1 << 31) - 1, (1 << 31) - 1), 413),
        (png_of(101, 100), 413),
        (png_of(100, 100), 422),
        (png_of(50, 50, zlib.compress(bytes(1 << 24))), 200),
        (png_of(0, 5), 422),
        (text_bomb(), 422),
        (zip_of_zeros(), 422),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 422),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", 422),
        (b"\x80\x04\x95", 422),
        (png()[:200], 422),
        (b"", 422),
    ],
    ids=lambda value: value if isinstance(value, int) else f"{len(value)} bytes",
)
@asynchronous
async def test_bombs_and_damaged_images(data: bytes, status: int) -> None:
    explainer = FakeExplainer()
    async with running(explainer, max_pixels=10_000) as at:
        for answer in (
            await at.explain(image=data_url(data)),
            await at.explain(image=base64.b64encode(data).decode()),
            await at.client.post("/v1/explanations", files={"image": data}),
        ):
            assert answer.status_code == status
            assert (status == 200) == (len(explainer.calls) > 1)
            if status != 200:
                assert answer.json()["error"]["param"] == "image"


@pytest.mark.parametrize(
    "image", ["", "data:,", "data:text/html;base64,PGI+", "/etc/passwd", "a b", "é", "data:image/png;base64,!"]
)
@asynchronous
async def test_text_that_is_no_image(image: str) -> None:
    async with running() as at:
        answer = await at.explain(image=image)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_image")


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"targets": "everything"}, 422, "targets"),
        ({"targets": [1.5]}, 422, "targets"),
        ({"targets": ["a"] * 1000}, 422, "targets"),
        ({"method": "none"}, 422, "method"),
        ({"profile": "none"}, 422, "profile"),
        ({"generation": {"steps": 0}}, 422, "generation.steps"),
        ({"generation": {"steps": 10**9}}, 422, "generation.steps"),
        ({"generation": {"seed": -1}}, 422, "generation.seed"),
        ({"budget_ms": 0}, 422, "budget_ms"),
        ({"answer": "a", "tokens": [1]}, 422, "answer"),
        ({"steps": [1]}, 422, "steps"),
        ({"tokens": [1, 2], "steps": [1]}, 422, "steps"),
        ({"image": None}, 422, "image"),
        ({"format": "html"}, 422, "format"),
    ],
)
@asynchronous
async def test_fields_are_checked_before_any_work(fields: dict[str, Any], status: int, param: str) -> None:
    explainer = FakeExplainer()
    async with running(explainer) as at:
        answer = await at.explain(**fields)
        assert answer.status_code == status
        assert answer.json()["error"]["param"].startswith(param)
        assert len(explainer.calls) == 1, "nothing but warming up"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"model": "gpt"}, 404),
        ({"n": 2}, 422),
        ({"tools": []}, 422),
        ({"messages": []}, 422),
        ({"messages": [{"role": "system", "content": "x"}]}, 422),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, 422),
        ({"explain": {"method": "none"}}, 422),
        ({"explain": {"prompt": "x"}}, 422),
    ],
)
@asynchronous
async def test_chats_that_cannot_be_answered(fields: dict[str, Any], status: int) -> None:
    async with running() as at:
        answer = await at.client.post("/v1/chat/completions", json=chat(**fields))
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{", "application/json"),
        (b"\xff", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"x", "text/plain"),
        (b"x", "multipart/form-data"),
        (b"x", "multipart/form-data; boundary=y"),
    ],
)
@asynchronous
async def test_bodies_that_are_no_request(content: bytes, kind: str) -> None:
    async with running() as at:
        answer = await at.client.post("/v1/explanations", content=content, headers={"Content-Type": kind})
        assert answer.status_code == 400


@asynchronous
async def test_no_name_of_the_client_is_a_path() -> None:
    async with running() as at:
        for path in (
            "/v1/runs/..%2f..%2fetc%2fpasswd",
            "/v1/runs/../../etc/passwd",
            "/v1/samples/..%2f0.png",
            "/v1/samples/-1.png",
            "/v1/samples/8.png",
            "/v1/samples/٣.png",
            "/viewer.js/../x",
            "//etc/passwd",
        ):
            assert (await at.client.get(path)).status_code == 404, path


@asynchronous
async def test_a_damaged_origin_is_another_one() -> None:
    async with running() as at:
        for origin in ("http://[", "service", "ftp://service", ""):
            answer = await at.client.get("/v1/models", headers={"Origin": origin})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "other_origin"), origin


@asynchronous
async def test_an_error_quotes_little_of_the_request() -> None:
    async with running() as at:
        answer = await at.client.post("/v1/explanations", json={"image": IMAGE, "k" * 1_000_000: 1})
        assert answer.status_code == 422
        assert len(answer.content) < 5000


@asynchronous
async def test_half_a_character_is_answered() -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="\\ud800"\r\n\r\n1\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=b; charset=unicode_escape"}
    async with running() as at:
        answer = await at.client.post("/v1/explanations", content=2 * part + b"--b--\r\n", headers=kind)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_field")


def test_a_line_of_pixels_is_refused() -> None:
    assert images.decode(png_of(20_000, 1, zlib.compress(bytes(60_001))), 1 << 24).shape == (1, 20_000, 3)
    for width, height in ((40_000, 1), (1, 40_000)):
        with pytest.raises(ServiceError, match="at most 32,768 pixels a side") as caught:
            images.decode(png_of(width, height), 1 << 24)
        assert caught.value.status == 413


def jpeg(**options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (16, 16)).save(buffer, "jpeg", **options)
    return buffer.getvalue()


def test_scans_of_a_jpeg_are_counted() -> None:
    assert images.count_scans(jpeg()) == 1
    exif = Image.Exif()
    exif[0x010E] = "\u00ff\u00da" * 200  # no scans: they stand in a segment
    assert images.count_scans(jpeg(exif=exif)) == 1
    assert images.count_scans(jpeg() + b"\xff\xda" * 200) == 1, "the file has ended"
    progressive = jpeg(progressive=True)
    scans = images.count_scans(progressive)
    last = progressive[progressive.rfind(b"\xff\xda") : -2]
    assert images.decode(progressive, 256).shape == (16, 16, 3)
    bomb = progressive[:-2] + last * images.MAX_SCANS + b"\xff\xd9"
    assert images.count_scans(bomb) == scans + images.MAX_SCANS
    with pytest.raises(ServiceError, match="more than 100 scans"):
        images.decode(bomb, 256)
