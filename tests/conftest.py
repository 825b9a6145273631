"""What holds for all tests: no network."""

from __future__ import annotations

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports Hugging Face's packages; tests' own processes have it too

LOCAL = ("", "localhost", "127.0.0.1", "::1", None)


def refuse_network(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: a test that reaches for another machine fails, with or without a network."""
    if event == "socket.connect" and isinstance(address := arguments[1], tuple):
        host = address[0]
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if host not in LOCAL:
        raise RuntimeError(f"tests: no test may use the network, got {event} to {host!r}")


sys.addaudithook(refuse_network)
