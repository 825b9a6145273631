"""`Fetcher`: images by URL, from listed hosts and public addresses only.

A name is resolved once, every address is checked, and the connection goes to the address that was checked. A redirect
is followed to the same host only, and is checked again.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

from dcam_fast.service.errors import ServiceError

PORTS: Final = {"http": 80, "https": 443}
REDIRECTS: Final = 3
CHUNK: Final = 65536
NAT64: Final = ipaddress.ip_network("64:ff9b::/96")

Resolve = Callable[[str, int], Sequence[str]]
Connect = Callable[[str, int, float], socket.socket]


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def connect(address: str, port: int, seconds: float) -> socket.socket:
    """A connection to an address."""
    return socket.create_connection((address, port), seconds)


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet, not of this machine or a network around it.

    >>> [is_public(address) for address in ("8.8.8.8", "127.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1")]
    [True, False, False, False, False]
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo or (None,))[-1]
        if inner is not None or parsed in NAT64:
            return False  # an IPv4 address in disguise
    return parsed.is_global and not parsed.is_multicast


@dataclass(frozen=True)
class Fetcher:
    """Loads images by URL.

    Attributes:
        hosts: that may be asked, in lower case.
        max_bytes: of an image.
        seconds: in which it must arrive.
        resolve: names to addresses.
        connect: to an address and port.
    """

    hosts: frozenset[str]
    max_bytes: int
    seconds: float
    resolve: Resolve = resolve
    connect: Connect = connect

    def __call__(self, url: str) -> bytes:
        """The bytes at a URL. Blocks.

        Raises:
            ServiceError: 422 if the URL may not or cannot be loaded, 413 if there are too many bytes.
        """
        ends = time.monotonic() + self.seconds
        parts = self._checked(url)
        for _ in range(REDIRECTS + 1):
            try:
                found = self._get(parts, ends)
            except (OSError, http.client.HTTPException, UnicodeError) as error:
                raise _error("that answers with an image", type(error).__name__) from error
            if isinstance(found, bytes):
                return found
            following = self._checked(urljoin(parts.geturl(), found))
            if following.hostname != parts.hostname:
                raise _error("without redirects to other hosts", "one")
            parts = following
        raise _error(f"with at most {REDIRECTS} redirects", "more")

    def _checked(self, url: str) -> SplitResult:
        try:
            parts = urlsplit(url.strip())
            port = parts.port
        except ValueError as error:
            raise _error("a URL", "something else") from error
        if not self.hosts:
            raise _error("a data: URL or base64, because this service loads none by URL", "a URL")
        if parts.scheme not in PORTS:
            raise _error("of http or https", "another scheme")
        if parts.username is not None or parts.password is not None or (parts.hostname or "") not in self.hosts:
            raise _error("of a host that this service may load images from", "another host")
        if port not in (None, PORTS[parts.scheme]):
            raise _error("of the scheme's own port", f"port {port}")
        if any(character <= " " or character > "~" for character in url.strip()):
            raise _error("printable ASCII", "another character")
        return parts

    def _get(self, parts: SplitResult, ends: float) -> bytes | str:
        """The body, or where a redirect leads."""
        host, port = str(parts.hostname), PORTS[parts.scheme]
        addresses = self.resolve(host, port)
        if not addresses or not all(map(is_public, addresses)):
            raise _error("of a host with public addresses", "another address")
        raw = self.connect(addresses[0], port, _left(ends))
        with raw:
            encrypted = parts.scheme == "https"
            channel = ssl.create_default_context().wrap_socket(raw, server_hostname=host) if encrypted else raw
            connection = http.client.HTTPConnection(host, port)
            connection.sock = channel
            try:
                target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                connection.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
                connection.putheader("Host", f"[{host}]" if ":" in host else host)
                connection.putheader("User-Agent", "dcam-fast")
                connection.endheaders()
                with connection.getresponse() as response:
                    return self._read(response, channel, ends)
            finally:
                connection.close()

    def _read(self, response: http.client.HTTPResponse, channel: socket.socket, ends: float) -> bytes | str:
        location = response.getheader("Location")
        if 300 <= response.status < 400 and location:
            return location
        if response.status != 200:
            raise _error("that answers with an image", f"status {response.status}")
        body = bytearray()
        while True:
            channel.settimeout(_left(ends))
            chunk = response.read1(CHUNK)
            if not chunk:
                return bytes(body)
            body += chunk
            if len(body) > self.max_bytes:
                message = f"service: image must be of at most {self.max_bytes:,} bytes, got more"
                raise ServiceError(413, "image_too_large", message, "image")


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _error(need: str, got: str) -> ServiceError:
    return ServiceError(422, "invalid_image_url", f"service: image URL must be {need}, got {got}", "image")
