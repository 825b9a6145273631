"""Folders of results: what the caller made stays, what a killed process left goes, and two writers do not mix."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dcam_fast import folders
from dcam_fast.cli import app as cli
from dcam_fast.folders import check_replaceable, files_of, replacing, write_json, write_text

RECORD = "record.json"


def put(folder: Path, content: str, *names: str) -> None:
    """A save with a record: each file holds the same content."""
    with replacing(folder, "put", RECORD) as draft:
        for name in names:
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            write_text(draft / name, content)
        write_json(draft / RECORD, {"schema": 1, "content": content, "files": [RECORD, *names]})


def contents(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in files_of(folder) if name != RECORD}


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_earlier_files_go_and_others_refuse(tmp_path: Path) -> None:
    put(tmp_path / "a", "1", "x", "deep/down/y", "deep/z")
    put(tmp_path / "a", "2", "x", "deep/z")
    assert contents(tmp_path / "a") == {"x": "2", "deep/z": "2"}
    assert not (tmp_path / "a/deep/down").exists()
    (tmp_path / "a/deep/mine").write_text("mine")
    with pytest.raises(FileExistsError, match=r"^put: folder must be new, empty or hold .* with 'deep/mine' in it"):
        put(tmp_path / "a", "3", "x")
    assert contents(tmp_path / "a") == {"x": "2", "deep/z": "2", "deep/mine": "mine"}
    with replacing(tmp_path / "a", "put") as draft:  # without a record nothing is removed
        write_text(draft / "x", "4")
    assert contents(tmp_path / "a") == {"x": "4", "deep/z": "2", "deep/mine": "mine"}
    (tmp_path / "b/mine").mkdir(parents=True)
    with pytest.raises(FileExistsError, match=r"with 'mine/' in it"):
        put(tmp_path / "b", "1", "x")


@pytest.mark.parametrize("failing", [False, True])
def test_the_callers_folder_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: bool) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    folder.chmod(0o2770)
    monkeypatch.chdir(folder)
    before = folder.stat()
    put(Path(), "1", "x")
    if failing:
        with pytest.raises(RuntimeError, match="stop"), replacing(Path(), "put", RECORD):
            raise RuntimeError("stop")
    after = Path().stat()
    assert (after.st_ino, after.st_mode, after.st_gid) == (before.st_ino, before.st_mode, before.st_gid)
    assert contents(folder) == {"x": "1"}
    assert not hidden(folder)


def test_files_follow_the_umask(tmp_path: Path) -> None:
    former = os.umask(0o027)
    try:
        put(tmp_path / "a", "1", "x")
    finally:
        os.umask(former)
    assert stat.S_IMODE((tmp_path / "a/x").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o750


def test_nothing_beside_the_folder_is_touched(tmp_path: Path) -> None:
    """So that a mount point, and a folder in one that is not writable, can be written to."""
    (tmp_path / "a").mkdir()
    before = tmp_path.stat().st_mtime_ns
    put(tmp_path / "a", "1", "x")
    put(tmp_path / "a", "2", "x")
    assert tmp_path.stat().st_mtime_ns == before


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with replacing(tmp_path / "new/deep", "put", RECORD) as draft:
            write_text(draft / "x", "1")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EEXIST, errno.EROFS, errno.EDQUOT])
def test_errors_of_the_system_name_caller_and_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    error = OSError(number, os.strerror(number))
    message = f"^put: folder must be writable, got '{tmp_path / 'a'}': {os.strerror(number)}$"
    with pytest.raises(type(error), match=message) as caught, replacing(tmp_path / "a", "put", RECORD):
        raise error
    assert caught.value.errno == number
    assert not list(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=r"^put: folder must be writable, got 'relative': (Not a directory|File exists)$"):
        put(Path("relative"), "1", "x", "x/y")  # the system's own error, about a path in it
    with pytest.raises(FileNotFoundError, match=r"^\[Errno 2\].*'/no/such/file'"), replacing(tmp_path / "a", "put"):
        Path("/no/such/file").read_text()  # of another's file
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/a"):
        with pytest.raises(OSError, match=r"^put: folder must be .*file"):
            put(tmp_path / place, "1", "x")


@pytest.mark.parametrize(
    "record",
    [
        '{"schema": 1, "files": null}',
        '{"schema": 1, "files": {"x": 1}}',
        '{"schema": 1, "files": [["x"], 3]}',
        '{"schema": 1}',
        '{"files": ["x"]}',
        '["schema", "files"]',
        "{",
        "[" * 100_000,
        '{"schema": 1, "files": ["../outside", "link/outside", "/x", ".", "..", "", "x\\u0000"]}',
    ],
)
def test_a_damaged_record_is_no_earlier_save(tmp_path: Path, record: str) -> None:
    (tmp_path / "outside").write_text("mine")
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (folder / RECORD).write_text(record)
    (folder / "x").write_text("mine")
    with pytest.raises(FileExistsError, match=r"^put: folder must be new, empty or hold nothing but an earlier save"):
        put(folder, "1", "y")
    assert sorted(path.name for path in folder.iterdir()) == ["link", RECORD, "x"]
    assert (tmp_path / "outside").read_text() == "mine"


def killed(folder: Path, when: str, number: int = signal.SIGKILL) -> None:
    """Runs a save of files x and y in a process that is killed in the draft or between the two files' moves."""
    program = f"""
        import os, signal
        from pathlib import Path
        from dcam_fast import folders
        move, moves = os.replace, []
        def replace(*paths):
            move(*paths)
            moves.append(paths)
            if {when!r} == "move" and len(moves) == 2:  # after the record's first
                os.kill(os.getpid(), {int(number)})
        os.replace = replace
        with folders.replacing(Path({str(folder)!r}), "put", {RECORD!r}) as draft:
            for name in ("x", "y"):
                folders.write_text(draft / name, "killed")
            folders.write_json(draft / {RECORD!r}, {{"schema": 1, "files": [{RECORD!r}, "x", "y"]}})
            if {when!r} == "draft":
                os.kill(os.getpid(), {int(number)})
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert result.returncode == -number


@pytest.mark.parametrize("when", ["draft", "move"])
@pytest.mark.parametrize("earlier", [False, True])
def test_what_a_killed_process_left_goes_with_the_next_save(tmp_path: Path, when: str, earlier: bool) -> None:
    folder = tmp_path / "a"
    if earlier:
        put(folder, "1", "z")
    killed(folder, when)
    assert len(hidden(folder)) == 1
    if when == "move":  # no reader takes a mixture for a save
        assert json.loads((folder / RECORD).read_text())["schema"] == "unfinished"
    elif earlier:
        assert contents(folder) == {"z": "1"}
    put(folder, "2", "x")
    assert contents(folder) == {"x": "2"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert not hidden(folder)


def test_the_draft_of_a_living_writer_stays(tmp_path: Path) -> None:
    with replacing(tmp_path / "a", "put", RECORD) as draft:
        write_text(draft / "x", "slow")
        write_json(draft / RECORD, {"schema": 1, "files": [RECORD, "x"]})
        put(tmp_path / "a", "quick", "x", "y")
        assert contents(tmp_path / "a")["x"] == "quick"
    assert contents(tmp_path / "a") == {"x": "slow"}


def test_two_writers_and_a_reader(tmp_path: Path) -> None:
    """The result is one of the two wholly, at every time."""
    folder, failures, done = tmp_path / "a", [], threading.Event()
    put(folder, "0", "x", "y", "0")

    def guarded(work: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)

        return run

    def write(content: str) -> None:
        for _ in range(40):
            put(folder, content, "x", "y", content)

    def read() -> None:
        while not done.is_set():
            with folders.locked(folder, shared=True):
                content = json.loads((folder / RECORD).read_text())["content"]
                visible = [name for name in files_of(folder) if name != RECORD]
                assert {name: (folder / name).read_text() for name in visible} == dict.fromkeys(
                    sorted(["x", "y", content]), content
                )

    writers = [threading.Thread(target=guarded(lambda content=content: write(content))) for content in "12"]
    reader = threading.Thread(target=guarded(read))
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert not failures
    assert not hidden(folder)


def test_writers_that_fail_do_not_disturb_one_that_makes_the_folder(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def failing() -> None:
        for _ in range(100):
            try:
                with replacing(tmp_path / "new/deep", "put", RECORD):
                    raise RuntimeError("stop")
            except RuntimeError:
                continue
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=failing) for _ in range(3)]
    for thread in threads:
        thread.start()
    put(tmp_path / "new/deep", "1", "x")
    for thread in threads:
        thread.join()
    assert not failures
    assert contents(tmp_path / "new/deep") == {"x": "1"}


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as patch:
        patch.setattr(folders.fcntl, "flock", flock)
        yield


@pytest.mark.usefixtures("without_locks")
def test_file_systems_without_locks(tmp_path: Path) -> None:
    put(tmp_path / "a", "1", "x")
    put(tmp_path / "a", "2", "x")
    assert contents(tmp_path / "a") == {"x": "2"}
    check_replaceable(tmp_path / "a", RECORD, "put")


@pytest.mark.parametrize("command", [["scenes", "--scenes", "9999"], ["demo", "--scenes", "99"]])
def test_sigterm_cleans_up(tmp_path: Path, command: list[str]) -> None:
    folder = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "dcam_fast", *command, "--out", str(folder)], stdout=subprocess.DEVNULL
    )
    while not folder.exists() or not hidden(folder):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_named_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for command in (["evaluate", "--limit", "1"], ["reproduce", "table1", "--limit", "1"], ["bench", "--only", "none"]):
        result = CliRunner().invoke(cli.app, [*command, "--out", str(tmp_path / "file" / "out")])
        assert result.exit_code == 1
        assert result.stderr.startswith(f"error: {command[0]}: folder must be writable, got '{tmp_path}/file/out': ")
        assert result.stderr.count("\n") == 1
