"""Every code block of README.md and docs/ runs as pasted, in order, in an empty folder.

`dcam-fast serve` starts a service on a free port, for which the document writes 8000. Blocks with curl run in a shell.

A block after the line `<!-- not run: REASON -->` is skipped, for one of `REASONS`, and after `<!-- needs: PROGRAM -->`
where this program is not installed. A block after the line `<!-- run with: OPTIONS -->` runs each command with these
options, which make it short. A block after `<!-- file: NAME -->` is written to this file.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from typer.testing import CliRunner

import dcam_fast
from dcam_fast import Explainer
from dcam_fast.cli import app as cli
from dcam_fast.evaluation.datasets import FORMATS
from dcam_fast.evaluation.registry import METRICS

ROOT = Path(__file__).parents[1]
REASONS = {"needs a checkpoint", "needs a GPU", "needs another package", "takes hours", "installs packages"}
ELSEWHERE = {  # documents that another test runs
    "adding-a-model.md": "test_docs_model.py",
    "adding-an-op.md": "test_docs_op.py",
}
DOCUMENTS = sorted(path for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")) if path.name not in ELSEWHERE)
ADDRESS = "http://127.0.0.1:8000"
FENCE = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*) -->\n)?(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    language: str
    code: str
    options: tuple[str, ...] = ()
    reason: str | None = None
    needs: str | None = None
    file: str | None = None


def blocks(text: str) -> Iterator[Block]:
    for match in FENCE.finditer(text):
        kind, _, value = (match["mark"] or "").partition(": ")
        yield Block(
            match["language"],
            match["code"],
            tuple(shlex.split(value)) if kind == "run with" else (),
            value if kind == "not run" else None,
            value if kind == "needs" else None,
            value if kind == "file" else None,
        )


class Services(contextlib.ExitStack):
    """The services that a document starts.

    Attributes:
        address: of the last one.
    """

    address = ADDRESS

    def start(self) -> None:
        """Starts a service of the embedded model in a thread."""
        pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
        from dcam_fast.service import create_app, server

        running = server.server_of(create_app(Explainer.from_pretrained("tiny")))
        listener = self.enter_context(server.listen("127.0.0.1", 0))
        thread = threading.Thread(target=running.run, args=([listener],))
        thread.start()
        self.callback(thread.join)
        self.callback(setattr, running, "should_exit", True)
        self.address = server.url_of(listener)


def run_curl(block: Block) -> None:
    """Runs a block of curl's commands in a shell."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    run = subprocess.run(["bash", "-euo", "pipefail", "-c", block.code], capture_output=True)
    assert run.returncode == 0, f"{block.code}\n{run.stderr.decode()}"


def run_pytest(arguments: list[str]) -> None:
    """Runs pytest on files of the document, in a separate process."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    path = os.pathsep.join([str(Path(dcam_fast.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def run_commands(block: Block, services: Services) -> None:
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        match words:
            case [] | ["./run", "test", *_]:  # this is the test
                continue
            case ["./run", "dcam-fast", "serve", *_]:
                services.start()
                continue
            case ["pytest", *arguments]:
                pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed")
                run_pytest(arguments)
                continue
            case ["./run", "demo", *arguments]:
                given = ["demo", *arguments, "--scenes", "1"]
            case ["./run" | "dcam-fast", *arguments]:
                given = arguments[1:] if words[:2] == ["./run", "dcam-fast"] else arguments
            case _:
                pytest.fail(f"{line!r} is not a command that the test can run; mark its block")
        result = CliRunner().invoke(cli.app, [*given, *block.options])
        assert result.exit_code == 0, f"{line}\n{result.output}"


def run_blocks(path: Path, services: Services) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for written in blocks(path.read_text("utf-8")):
        block = replace(written, code=written.code.replace(ADDRESS, services.address))
        if block.reason is not None:
            assert block.reason in REASONS, f"{path.name}: {block.reason!r} is not a reason to skip a block"
        elif block.needs is not None and shutil.which(block.needs) is None:
            continue
        elif block.file is not None:
            Path(block.file).write_text(block.code, "utf-8")
        elif block.language == "python":
            exec(compile(block.code, f"{path.name}: {block.code[:60]}", "exec"), names)
        elif "curl " in block.code:
            run_curl(block)
        elif block.language in ("bash", "sh", "console"):
            run_commands(block, services)
        else:
            assert block.language == "text", f"{path.name}: a block must name its language: {block.code[:60]}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_blocks_run_as_pasted(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # a command may add the folder
    with mock.patch.dict(METRICS), mock.patch.dict(FORMATS), Services() as services:  # a document may register its own
        run_blocks(path, services)
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(file.stem, None)


def test_documents_with_another_test_are_in_it() -> None:
    for document, test in ELSEWHERE.items():
        assert document in (ROOT / "tests" / test).read_text("utf-8")


def test_marks_are_parsed() -> None:
    text = "a\n<!-- not run: needs a GPU -->\n```bash\nx\n```\n```python\ny\n```\n"
    text += "<!-- run with: --limit 1 -->\n```sh\nz\n```\n"
    assert list(blocks(text)) == [
        Block("bash", "x\n", reason="needs a GPU"), Block("python", "y\n"), Block("sh", "z\n", ("--limit", "1"))
    ]  # fmt: skip
    text = "<!-- file: a.py -->\n```python\nx\n```\n<!-- needs: c++ -->\n```bash\ny\n```\n"
    assert list(blocks(text)) == [Block("python", "x\n", file="a.py"), Block("bash", "y\n", needs="c++")]
