"""`dcam-fast serve`: its options and its errors."""

from __future__ import annotations

import socket
import sys
from typing import Any

import pytest
from serving import FakeExplainer
from typer.testing import CliRunner

from dcam_fast.cli import app as cli
from dcam_fast.cli.commands import serve as command
from dcam_fast.service import server


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The settings of the services that the command starts; none of them runs."""
    found: list[Any] = []

    class Started:
        def __init__(self, app: Any) -> None:
            found.append(app.state.service.settings)

        def run(self, sockets: list[socket.socket]) -> None:
            assert sockets[0].getsockname()[1] > 0

    monkeypatch.setattr(server, "server_of", Started)
    monkeypatch.setattr(command, "load_explainer", lambda *_, **__: FakeExplainer())
    monkeypatch.setattr("dcam_fast.service.logs.configure", lambda: None)
    return found


def run(*arguments: str, **environment: str) -> Any:
    return CliRunner().invoke(cli.app, ["serve", "--port", "0", *arguments], env=environment)


def test_it_listens_on_this_machine_alone(started: list[Any]) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert "http://127.0.0.1:" in result.output
    assert "anyone" not in result.output
    (settings,) = started
    assert settings.hosts == {"localhost", "127.0.0.1", "::1"}
    assert settings.image_hosts == frozenset()
    assert settings.api_key is None


def test_options(started: list[Any]) -> None:
    result = run(
        "--queue", "3", "--allow-host", "Proxy.example", "--allow-image-host", "Images.example", "--drain", "2"
    )
    assert result.exit_code == 0, result.output
    (settings,) = started
    assert (settings.queue, settings.drain_seconds) == (3, 2.0)
    assert "proxy.example" in settings.hosts
    assert settings.image_hosts == {"images.example"}


def test_the_key_may_be_in_the_environment_and_is_not_shown(started: list[Any]) -> None:
    result = run(DCAM_API_KEY="a secret")
    assert result.exit_code == 0, result.output
    assert started[0].api_key == "a secret"
    assert "a secret" not in result.output
    assert run("--api-key", " ").exit_code == 1


def test_a_service_for_everyone_without_a_key_says_so(started: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    listen = server.listen
    monkeypatch.setattr(server, "listen", lambda host, port: listen("127.0.0.1", port))
    monkeypatch.setattr(server, "is_loopback", lambda listener: False)
    result = run("--host", "0.0.0.0")
    assert result.exit_code == 0, result.output
    assert "anyone who reaches this address" in result.output
    assert started[0].hosts == frozenset()


@pytest.mark.parametrize("host", ["127.0.0.1", "LOCALHOST", "127.1"])
def test_every_spelling_of_loopback_has_its_names_checked(
    started: list[Any], monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    listen = server.listen
    monkeypatch.setattr(server, "listen", lambda _, port: listen("127.0.0.1", port))  # no test asks a resolver
    result = run("--host", host)
    assert result.exit_code == 0, result.output
    assert started[0].hosts == {"localhost", "127.0.0.1", "::1", host.lower()}


def test_a_port_in_use_is_one_line(started: list[Any]) -> None:
    with server.listen("127.0.0.1", 0) as listener:
        result = run("--port", str(listener.getsockname()[1]))
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1
    assert not started


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("fastapi", "dcam_fast.service"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    result = run()
    assert result.exit_code == 1
    (line,) = " ".join(result.output.split()).split("\n")
    assert "serve: needs the extra serve (pip install 'dcam_fast[serve]')" in line
