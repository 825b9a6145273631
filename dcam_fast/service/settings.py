"""`ServiceSettings`: the limits of a service and who may use it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

MIB = 1 << 20


@dataclass(frozen=True)
class ServiceSettings:
    """The limits of a service and who may use it.

    Attributes:
        api_key: what requests must carry as `Authorization: Bearer KEY`. None: no key is needed.
        hosts: the names that a request's `Host` may have. Empty: any. A service on loopback needs them: without, a web
            page could reach it under another name.
        image_hosts: the hosts that images may be loaded from by URL. Empty: URLs are refused.
        queue: requests that may wait or run; more are refused.
        max_body: bytes of a request or of a loaded image.
        max_pixels: of an image.
        body_seconds: in which the head of a request, its body, or a loaded image must arrive.
        send_seconds: in which a client must take an event of a stream, or a part of another answer.
        ping_seconds: between the comments that keep a silent stream open.
        drain_seconds: for which requests may go on after SIGTERM.
        runs: explanations that are kept for their links.
        runs_bytes: bytes of their images and maps.

    Raises:
        ValueError: for an empty key, or a limit that is not positive.

    Example:
        >>> ServiceSettings(queue=8).queue
        8
    """

    api_key: str | None = field(default=None, repr=False)
    hosts: frozenset[str] = frozenset()
    image_hosts: frozenset[str] = frozenset()
    queue: int = 32
    max_body: int = 16 * MIB
    max_pixels: int = 16_000_000
    body_seconds: float = 30.0
    send_seconds: float = 30.0
    ping_seconds: float = 15.0
    drain_seconds: float = 30.0
    runs: int = 64
    runs_bytes: int = 256 * MIB

    def __post_init__(self) -> None:
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.strip() == self.api_key != ""):
            raise ValueError(
                "ServiceSettings: api_key must be ASCII characters without spaces around, got another text"
            )
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int | float) and not value > 0:
                raise ValueError(f"ServiceSettings: {item.name} must be more than 0, got {value!r}")
