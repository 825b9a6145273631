"""The tests themselves: none of them reaches for the network."""

from __future__ import annotations

import socket

import huggingface_hub.constants
import pytest


def test_no_test_uses_the_network() -> None:
    assert huggingface_hub.constants.HF_HUB_OFFLINE
    with pytest.raises(RuntimeError, match=r"no test may use the network, got socket\.getaddrinfo to 'example\.org'"):
        socket.create_connection(("example.org", 80))
    with socket.socket() as one, pytest.raises(RuntimeError, match=r"got socket.connect to '192\.0\.2\.1'"):
        one.connect(("192.0.2.1", 80))
