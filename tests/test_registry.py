"""Models by folder."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from dcam_fast import Explainer, models
from dcam_fast.cli import app
from dcam_fast.models import AdapterError


def folder(path: Path, config: object) -> str:
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


def test_unknown_family_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"model_type in .* must be one of .*diffusion_gemma.*, got 'llava_next'"):
        models.load(folder(tmp_path, {"model_type": "llava_next"}))
    with pytest.raises(AdapterError, match=r"must be one of .*, got None"):
        models.load(folder(tmp_path, {}))


def test_unreadable_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(AdapterError, match="must be JSON that can be read"):
        models.load(str(tmp_path))
    with pytest.raises(AdapterError, match="must hold an object, got list"):
        models.load(folder(tmp_path, []))
    with pytest.raises(AdapterError, match=r"a folder with a config.json"):
        models.load(str(tmp_path / "nothing"))


def test_one_line_registers_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Path, dict[str, Any]]] = []
    family = SimpleNamespace(load_adapter=lambda path, **options: calls.append((path, options)))
    monkeypatch.setitem(models.FAMILIES, "mine", "my_family")
    monkeypatch.setitem(__import__("sys").modules, "my_family", family)
    path = folder(tmp_path, {"model_type": "mine"})
    models.load(path)
    Explainer.from_pretrained(path, attention="joint", trust_remote_code=True)
    assert calls == [
        (tmp_path, {"device": "cpu", "attention": None, "trust_remote_code": False, "dtype": None}),
        (tmp_path, {"device": "cpu", "attention": "joint", "trust_remote_code": True, "dtype": None}),
    ]


def test_command_line_hands_on_model_and_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, bool, str | None]] = []

    def from_pretrained(model: str, *, device: str, trust_remote_code: bool, dtype: str | None) -> None:
        calls.append((model, trust_remote_code, dtype))
        raise AdapterError("load: nothing there")

    monkeypatch.setattr(Explainer, "from_pretrained", from_pretrained)
    for more in ([], ["--trust-remote-code", "--dtype", "bfloat16"]):
        assert CliRunner().invoke(app, ["explain", "a.png", "--model", str(tmp_path), *more]).exit_code == 1
    assert calls == [(str(tmp_path), False, None), (str(tmp_path), True, "bfloat16")]
