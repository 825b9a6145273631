from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import dcam_fast
from dcam_fast import Contrast, GivenAnswer, scenes
from dcam_fast.cli import app as cli
from dcam_fast.cli import console, demonstration
from dcam_fast.cli.commands.explain import STREAM_LEGEND
from dcam_fast.explained_answer import Target, Token
from dcam_fast.explanation import Explanation
from dcam_fast.images import load_image
from dcam_fast.models.generation import Generation


class FakeExplainer:
    """Answers with the prompt, and records every call."""

    calls: list[dict[str, Any]] = []  # noqa: RUF012

    @classmethod
    def from_pretrained(cls, model: str, **_: Any) -> FakeExplainer:
        cls.calls = []
        return cls()

    def explain(self, image: Any, prompt: str | None = None, targets: Any = "content", **options: Any) -> Explanation:
        pixels = load_image(image)
        self.calls.append({"prompt": prompt, "targets": targets, **options})
        texts = (prompt or "a red ring").split()
        step = torch.arange(5) * float(pixels.shape[1]) / 4, torch.arange(4) * float(pixels.shape[0]) / 3
        boxes = torch.stack(
            torch.broadcast_tensors(step[0][:-1], step[1][:-1, None], step[0][1:], step[1][1:, None]), 2
        )
        maps = torch.rand(len(texts), 3, 4)
        return Explanation(
            image=pixels,
            prompt=prompt or "describe",
            answer=" ".join(texts),
            tokens=tuple(Token(text, i, i, i) for i, text in enumerate(texts)),
            targets=tuple(Target(text, (i,), 0.5, 0.5, 0.5) for i, text in enumerate(texts)),
            maps=maps,
            raw_maps=maps,
            boxes=boxes,
            provenance={},
        )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeExplainer]:
    monkeypatch.setattr("dcam_fast.explainer.Explainer", FakeExplainer)
    return FakeExplainer


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs the command line in an empty folder; the result has exit_code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def picture(path: Path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)).save(path)
    return path


def test_version_and_help(run: Callable[..., Any]) -> None:
    assert run("--version").stdout == f"dcam-fast {dcam_fast.__version__}\n"
    for command in ("demo", "explain", "env", "scenes", "train-tiny"):
        assert command in run("--help").stdout
        assert run(command, "--help").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("explain",),
        ("no-such-command",),
        ("explain", "x.png", "--method", "magic"),
        ("explain", "x.png", "--profile", "magic"),
        ("explain", "x.png", "--dtype", "float16"),
        ("explain", "x.png", "--steps", "0"),
        ("explain", "x.png", "--temperature", "-1"),
        ("evaluate", "--method", "magic"),
        ("evaluate", "--profile", "magic"),
        ("evaluate", "--dtype", "float16"),
        ("reproduce", "table9"),
        ("reproduce", "table1", "--dtype", "float16"),
        ("demo", "--scenes", "0"),
        ("scenes", "--scenes", "many"),
    ],
)
def test_usage_errors(run: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr
    assert "Traceback" not in result.output


def test_explain(run: Callable[..., Any], fake: type[FakeExplainer], tmp_path: Path) -> None:
    picture(tmp_path / "photo.png")
    result = run("explain", "photo.png")
    assert result.exit_code == 0, result.output
    assert "a red ring" in result.stdout
    assert "dcam-out/photo/explanation.html" in result.stdout
    assert Explanation.load(tmp_path / "dcam-out" / "photo").answer == "a red ring"
    expected = {"prompt": None, "targets": "content", "method": "default", "profile": None, "generation": Generation()}
    assert fake.calls == [expected | {"answer": None, "scores": True}]


def test_explain_options(run: Callable[..., Any], fake: type[FakeExplainer], tmp_path: Path) -> None:
    path = picture(tmp_path / "[a] photo.png")
    options = ("--prompt", "what is it ?", "--method", "published", "--profile", "paper", "--out", tmp_path / "x")
    options += ("--steps", 8, "--block-length", 4, "--temperature", 0.5, "--seed", 7, "--no-scores")
    result = run("explain", path, "--target", "it", "--target", "what is", *options)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "x" / "[a] photo" / "explanation.html").exists()
    named = {"prompt": "what is it ?", "targets": ["it", "what is"], "method": "published", "profile": "paper"}
    assert fake.calls == [named | {"answer": None, "generation": Generation(8, 4, 0.5, 7), "scores": False}]
    run("explain", path, "--target", "all")
    assert fake.calls[0]["targets"] == "all"
    run("explain", path, "--target", "red>blue", "--target", ">")
    assert fake.calls[0]["targets"] == [Contrast("red", "blue"), ">"]


@pytest.mark.parametrize(
    ("options", "content", "expected"),
    [
        (("--answer", "a red ring"), "", "a red ring"),
        (("--answer", ""), "", ""),
        (("--answer-file", "answer.txt"), "a red ring\n", "a red ring"),
        (("--answer-file", "answer.txt"), "\ufeffa red ring", "a red ring"),
        (("--answer-file", "answer.JSON"), '{"text": "a red ring"}', "a red ring"),
        (("--answer-file", "answer.json"), '{"text": "a red ring"}', "a red ring"),
        (("--answer-file", "answer.json"), '{"tokens": [1, 2]}', GivenAnswer((1, 2))),
        (("--answer-file", "answer.json"), '{"tokens": [1, 2], "steps": [1, 0]}', GivenAnswer((1, 2), (1, 0))),
    ],
)
def test_explain_a_given_answer(
    run: Callable[..., Any], fake: type[FakeExplainer], tmp_path: Path, options: Any, content: str, expected: Any
) -> None:
    for name in ("answer.txt", "answer.json", "answer.JSON"):
        (tmp_path / name).write_text(content)
    result = run("explain", picture(tmp_path / "photo.png"), *options)
    assert result.exit_code == 0, result.output
    assert fake.calls[0]["answer"] == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"steps": [1]}', "explain: content must be an object with 'text' or 'tokens'"),
        (
            '{"text": "a", "steps": [1]}',
            "content must be an object with either 'text' or 'tokens', got 'text' and",
        ),
        ('{"tokens": [1, "a"]}', "explain: tokens[1] must be an integer"),
        ('{"tokens": [1], "steps": []}', "GivenAnswer: steps must be as many as the tokens, 1, or None, got 0"),
        ("a red ring", "explain: --answer-file must be JSON"),
    ],
)
def test_answer_files_that_hold_no_answer(run: Callable[..., Any], tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "answer.json").write_text(content)
    result = run("explain", picture(tmp_path / "photo.png"), "--answer-file", "answer.json")
    assert result.exit_code == 1
    assert message in result.stderr


@pytest.mark.parametrize("name", ["nowhere.txt", "nowhere.json", "."])
def test_answer_files_that_do_not_exist(run: Callable[..., Any], tmp_path: Path, name: str) -> None:
    result = run("explain", picture(tmp_path / "photo.png"), "--answer-file", name)
    assert result.exit_code == 1
    assert f"explain: --answer-file must be a file that exists, got '{name}'" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    [("--answer", "a", "--stream"), ("b.png", "--answer", "a"), ("--answer", "a", "--answer-file", "a.txt")],
)
def test_a_given_answer_is_one_of_one_image(run: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    result = run("explain", "photo.png", *arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


def test_explain_with_stream(run: Callable[..., Any], tmp_path: Path) -> None:
    """Every step shows the answer so far and where its new tokens point; the files have the final answer."""
    path = tmp_path / "scene.png"
    scene = scenes.sample_scene(np.random.default_rng(21), 96, 128, 2)
    Image.fromarray(scene.image).save(path)
    result = run("explain", path, "--stream", "--dtype", "float32", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    answer = " ".join(scenes.caption(scene).answer)
    assert result.output.count(STREAM_LEGEND) == 1
    steps = re.findall(r"^ +(\d+)  (.+)$", result.output, re.MULTILINE)
    assert [int(index) for index, _ in steps] == list(range(len(steps)))
    assert len(steps) > len(answer.split())
    assert "_" in steps[0][1]
    assert steps[-1][1].startswith(answer)
    assert re.search(rf"{scene.objects[0].shape} \(\d+, \d+\)", result.output)
    saved = Explanation.load(tmp_path / "out/scene")
    assert saved.answer == answer
    assert saved.provenance["method"] == "default, streamed"
    assert saved.provenance["state"] == "committed"


@pytest.mark.usefixtures("fake")
def test_explain_continues_after_a_bad_image(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    paths = [
        picture(tmp_path / "a.png"),
        tmp_path / "none.png",
        tmp_path / "bad.png",
        picture(tmp_path / "sub" / "a.png"),
    ]
    paths[2].write_bytes(b"no picture")
    result = run("explain", *paths)
    assert result.exit_code == 1
    assert sorted(path.name for path in (tmp_path / "dcam-out").iterdir()) == ["a", "a-2"]
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("error: load_image: image must be a file that exists")
    assert lines[1].startswith("error: load_image: image must be a picture")
    assert lines[2] == "2 of 4 images could not be explained"


@pytest.mark.usefixtures("fake")
def test_control_characters_are_replaced(run: Callable[..., Any], tmp_path: Path) -> None:
    wild = "\x1b[31m\x07\x7f\x9b2J\u202e"
    good, bad = picture(tmp_path / "photo.png").rename(tmp_path / f"good{wild}.png"), f"bad{wild}.png"
    for arguments in (
        ("explain", good, "--prompt", f"an{wild}swer"),
        ("explain", bad),
        ("--debug", "explain", bad),
        ("scenes", "--out", good),
        ("explain", good, "--method", f"x{wild}"),
        ("bench", "--compare", good, bad),
    ):
        result = run(*arguments)
        shown = result.stdout + result.stderr
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown), arguments
    assert console.visible("a\tb\n\x1b") == "a\tb\n\u241b"


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\xff", b"{", b"[]", b'{"schema": 1}', b"\xff"])
def test_compare_names_an_invalid_file(run: Callable[..., Any], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b.json").write_bytes(content)
    for name in ("b.json", "none.json"):
        result = run("bench", "--compare", name, name)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: bench: compare must name result files of bench, got '{name}' (")
        assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("fake")
def test_debug_shows_the_traceback(run: Callable[..., Any]) -> None:
    short, long = run("explain", "none.png"), run("--debug", "explain", "none.png")
    assert (short.exit_code, long.exit_code) == (1, 1)
    assert len(short.stderr.splitlines()) == 1
    assert "Traceback" in long.stderr
    assert "FileNotFoundError" in long.stderr


def test_unexpected_errors_are_on_one_line(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise KeyError("no\nsuch key")

    monkeypatch.setattr("dcam_fast.environment.env", broken)
    result = run("env")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: KeyError: ")
    assert len(result.stderr.splitlines()) == 1


def test_env(run: Callable[..., Any]) -> None:
    result = run("env")
    assert result.exit_code == 0
    assert f"dcam_fast {dcam_fast.__version__}" in result.stdout


def test_scenes(run: Callable[..., Any], tmp_path: Path) -> None:
    result = run("scenes", "--scenes", "3", "--seed", "5", "--out", "drawn")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "drawn"
    record = json.loads((folder / "scenes.json").read_text())
    assert len(record["scenes"]) == 3
    for scene in record["scenes"]:
        assert load_image(folder / scene["image"]).shape == (128, 128, 3)
        assert scene["caption"] == scene["dialogues"][0]["answer"]
        for item in scene["objects"]:
            assert f"{item['size']} {item['color']} {item['shape']}" in scene["caption"]
            mask = load_image(folder / item["mask"])[..., 0] > 0
            assert mask[item["y"] - item["radius"] : item["y"] + item["radius"], :].any()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    run("scenes", "--scenes", "3", "--seed", "5", "--out", "hard", "--hard")
    assert (tmp_path / "hard" / "scene-01.png").read_bytes() != before["scene-01.png"]
    run("scenes", "--scenes", "3", "--seed", "5", "--out", "drawn")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "mine.txt").write_text("")
    result = run("scenes", "--out", "drawn")
    assert result.exit_code == 1
    assert "mine.txt" in result.stderr


def test_train_tiny(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def train(folder: Path, **options: Any) -> Path:
        calls.append((folder, options))
        return folder / "model"

    monkeypatch.setattr("dcam_fast.models.tiny.train.train", train)
    result = run("train-tiny", "here", "--scale", "0.01", "--compile")
    assert result.exit_code == 0, result.output
    assert calls == [(Path("here"), {"scale": 0.01, "compile": True})]
    assert "here/model" in result.stdout


def check_demo(result: Any, folder: Path, count: int) -> None:
    assert result.exit_code == 0, result.output
    rounds = json.loads((folder / "demo.json").read_text())["rounds"]
    assert len([round for round in rounds if round["folder"].endswith("/caption")]) == count
    assert 2 * count <= len(rounds) <= 3 * count
    for round in rounds:
        assert Explanation.load(folder / round["folder"]).answer == round["answer"]
        assert round["answer"] in result.stdout
    page = (folder / "index.html").read_text()
    for address in re.findall(r'(?:href|src)="([^"]*)"', page):
        assert address == "data:," or (folder / address).is_file(), address
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.width > 300
    assert str(folder / "contact_sheet.png") in result.stdout


@pytest.mark.usefixtures("fake")
def test_demo(run: Callable[..., Any], tmp_path: Path) -> None:
    for count in (2, 1):
        check_demo(run("demo", "--scenes", count, "--out", tmp_path / "shown"), tmp_path / "shown", count)
    assert sorted(path.name for path in (tmp_path / "shown").iterdir()) == [
        "contact_sheet.png", "demo.json", "index.html", "scene-01"
    ]  # fmt: skip
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    assert run("demo", "--out", tmp_path / "mine").exit_code == 1
    assert (tmp_path / "mine" / "index.html").read_text() == "mine"


def test_demo_of_the_embedded_model(run: Callable[..., Any], tmp_path: Path) -> None:
    check_demo(run("demo", "--scenes", 1, "--out", tmp_path / "shown"), tmp_path / "shown", 1)


def test_rounds_depend_on_the_seed_and_vary_in_kind() -> None:
    rounds = demonstration.draw_rounds(5, 3)
    assert [(round.folder, round.prompt, round.expected) for round in rounds] == [
        (round.folder, round.prompt, round.expected) for round in demonstration.draw_rounds(5, 3)
    ]
    assert len({round.folder for round in rounds}) == len(rounds)
    assert len({round.folder.partition("/")[2] for round in rounds}) >= 5
    assert rounds[0].is_right(rounds[0].expected.replace(" ,", ","))
    assert not rounds[0].is_right("nothing")


def test_interrupt_has_its_exit_code(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dcam_fast.environment.env", interrupted)
    assert run("env").exit_code == 128 + signal.SIGINT


def test_help_of_the_module_names_the_command() -> None:
    command = [sys.executable, "-m", "dcam_fast", "explain", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.split()[:3] == ["Usage:", "dcam-fast", "explain"]


def test_module_writes_to_a_terminal_without_unicode(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}  # a terminal that cannot show the name
    (tmp_path / "環").write_text("mine")
    command = [sys.executable, "-m", "dcam_fast", "scenes", "--out", "環"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: scenes: folder must be a folder or not exist, got the file")
