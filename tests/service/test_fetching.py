"""Images by URL: no address of this machine or its network is ever reached."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence

import pytest
from serving import asynchronous, png, running

from dcam_fast.service.errors import ServiceError
from dcam_fast.service.fetching import Fetcher, is_public

PUBLIC = "93.184.215.14"
PRIVATE = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "192.168.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "fc00::1",
    "fe80::1",
    "fe80::1%eth0",
    "ff02::1",
    "not an address",
]


class Net:
    """A network of one server, which gives the next of its answers to each connection.

    Attributes:
        answers: what the server says.
        addresses: what names resolve to, one list for each time they are asked.
        asked: what the server was sent.
        reached: addresses that were connected to.
        threads: of the server.
    """

    def __init__(self, *answers: bytes, addresses: Sequence[Sequence[str]] = ()) -> None:
        self.answers = list(answers)
        self.addresses = list(addresses)
        self.asked: list[bytes] = []
        self.reached: list[tuple[str, int]] = []

    def resolve(self, host: str, port: int) -> Sequence[str]:
        return self.addresses.pop(0) if self.addresses else [PUBLIC]

    def connect(self, address: str, port: int, seconds: float) -> socket.socket:
        self.reached.append((address, port))
        ours, theirs = socket.socketpair()
        ours.settimeout(seconds)
        threading.Thread(target=self._serve, args=(theirs, self.answers.pop(0))).start()
        return ours

    def _serve(self, channel: socket.socket, answer: bytes) -> None:
        with channel:
            self.asked.append(channel.recv(65536))
            try:
                channel.sendall(answer)
            except OSError:  # the client has enough
                return

    def fetcher(self, max_bytes: int = 1 << 20, seconds: float = 30.0) -> Fetcher:
        return Fetcher(frozenset({"images.example"}), max_bytes, seconds, self.resolve, self.connect)


def found(body: bytes, *headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers, "", ""]).encode() + body


def moved(location: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


def refused(net: Net, url: str, match: str, status: int = 422, **options: float) -> None:
    with pytest.raises(ServiceError, match=match) as caught:
        net.fetcher(**options)(url)  # type: ignore[arg-type]
    assert caught.value.status == status
    assert caught.value.param == "image"


def test_an_image_of_a_listed_host() -> None:
    net = Net(found(b"picture"))
    assert net.fetcher()("http://images.example/a/b.png?c=d") == b"picture"
    assert net.reached == [(PUBLIC, 80)]
    (asked,) = net.asked
    assert asked.startswith(b"GET /a/b.png?c=d HTTP/1.1\r\nHost: images.example\r\n")
    assert b"Cookie" not in asked
    assert b"Authorization" not in asked


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses(address: str) -> None:
    assert not is_public(address)
    net = Net(addresses=[[address]])
    refused(net, "http://images.example/", "public addresses")
    net = Net(addresses=[[PUBLIC, address]])
    refused(net, "http://images.example/", "public addresses")
    assert net.reached == []


def test_a_name_that_changes_its_address_is_connected_to_where_it_was_checked() -> None:
    net = Net(found(b"picture"), addresses=[[PUBLIC], ["127.0.0.1"]])
    assert net.fetcher()("http://images.example/") == b"picture"
    assert net.reached == [(PUBLIC, 80)]
    assert net.addresses == [["127.0.0.1"]], "it was resolved once"


def test_a_redirect_is_checked_again() -> None:
    net = Net(moved("/there"), found(b"picture"))
    assert net.fetcher()("http://images.example/here") == b"picture"
    assert net.asked[1].startswith(b"GET /there ")
    net = Net(moved("/there"), addresses=[[PUBLIC], ["127.0.0.1"]])
    refused(net, "http://images.example/here", "public addresses")
    assert len(net.reached) == 1


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1/",
        "http://[::1]/",
        "//evil.example/",
        "file:///etc/passwd",
        "http://images.example:22/",
        "ftp://images.example/",
        "http://images.example@127.0.0.1/",
    ],
)
def test_redirects_that_lead_elsewhere(location: str) -> None:
    net = Net(moved(location))
    refused(net, "http://images.example/", "image URL must be")
    assert len(net.reached) == 1


def test_endless_redirects() -> None:
    refused(Net(*[moved("/")] * 9), "http://images.example/", "at most 3 redirects")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "gopher://images.example/",
        "http://evil.example/",
        "http://images.example.evil.example/",
        "http://images.example@evil.example/",
        "http://user:password@images.example/",
        "http://images.example:8080/",
        "http://images.example:0x50/",
        "http://[::1]/",
        "http://[::1/",
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://images.example/\r\nHost: evil.example",
        "http://images.example/é",
        "http://images.example\\@evil.example/",
        "http:///path",
    ],
)
def test_urls_that_may_not_be_loaded(url: str) -> None:
    net = Net()
    refused(net, url, "image URL must be")
    assert net.reached == []


def test_no_url_is_loaded_unless_told() -> None:
    with pytest.raises(ServiceError, match="loads none by URL"):
        Fetcher(frozenset(), 1000, 1.0)("http://images.example/")


def test_what_a_host_may_send() -> None:
    refused(Net(found(bytes(2000))), "http://images.example/", "at most 1,000 bytes", 413, max_bytes=1000)
    refused(Net(b"HTTP/1.1 404 Not Found\r\n\r\n"), "http://images.example/", "status 404")
    refused(Net(b"SSH-2.0-OpenSSH\r\n"), "http://images.example/", "answers with an image")
    refused(Net(b""), "http://images.example/", "answers with an image")
    refused(Net(found(b"x")), "http://images.example/", "answers with an image", seconds=1e-9)
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + bytes(0x400) + b"\r\n"
    refused(Net(chunks * 2), "http://images.example/", "at most 1,000 bytes", 413, max_bytes=1000)


@asynchronous
async def test_a_request_with_a_url() -> None:
    net = Net(found(png()), found(b"no picture"))
    async with running(image_hosts=frozenset({"images.example"})) as at:
        at.service.fetch = net.fetcher()
        assert (await at.explain(image="http://images.example/a.png")).status_code == 200
        answer = await at.explain(image="http://images.example/a.png")
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_image")
    async with running() as at:
        answer = await at.explain(image="http://127.0.0.1/a.png")
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_image_url")
