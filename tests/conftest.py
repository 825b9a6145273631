"""What holds for all tests: no network, and where the folders that are parts of the package lie."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports Hugging Face's packages; tests' own processes have it too

import dcam_fast

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

if importlib.util.find_spec("dcam_fast.benchmarks") is None:
    # a checkout that is on the path and not installed: they lie beside the package
    dcam_fast.__path__.append(str(Path(__file__).parents[1]))
