"""The files of a run: `run.json` says what the run is, `records.jsonl` has one record for each sample."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import torch

from dcam_fast.folders import check_writable, naming, replacing, write_json
from dcam_fast.json_entries import Entry, read_json

RUN: Final = "run.json"
RECORDS: Final = "records.jsonl"

Record = dict[str, Any]


@contextmanager
def open_records(folder: Path, facts: Mapping[str, object]) -> Iterator[tuple[IO[str], list[Record]]]:
    """The locked file of records, open at its end, and its complete records. A record cut short is removed.

    Args:
        folder: of the run, made if it does not exist.
        facts: what the run is, as JSON values; written to `RUN` at the start and compared with it later.

    Raises:
        ValueError: if the folder has another run, or records of another program.
        BlockingIOError: if another run writes to the folder.
    """
    check_writable(folder, "evaluate")
    path = folder / RECORDS
    # in ASCII, so that a killed run never leaves half a character
    with naming(folder, "evaluate"), path.open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"evaluate: out must be free, got '{folder}', which another run writes to") from error
        _check_run(folder, facts, begun=path.stat().st_size > 0)
        file.seek(0)
        text = file.read()
        complete = text[: text.rfind("\n") + 1]
        try:
            records = [json.loads(line) for line in complete.split("\n")[:-1]]
            entries = [Entry(record, "evaluate", f"record {number}", path) for number, record in enumerate(records)]
            indices = [entry.field("index").integer(0) for entry in entries]
            for entry in entries:
                entry.field("words").list()
                entry.field("methods").fields()
        except (ValueError, RecursionError) as error:
            raise ValueError(f"evaluate: out must hold records of a run, got '{path}': {error!r}") from error
        if len(set(indices)) != len(indices):
            raise ValueError(f"evaluate: out must hold one record for each sample, got '{path}' with duplicates")
        file.seek(len(complete))
        file.truncate()
        yield file, records


def _check_run(folder: Path, facts: Mapping[str, object], begun: bool) -> None:
    """Writes what the run is, or raises ValueError if the folder has another one."""
    if not begun:
        with replacing(folder, "evaluate") as draft:
            write_json(draft / RUN, {**facts, "torch": torch.__version__})
        return
    try:
        former = {name: entry.value for name, entry in read_json(folder / RUN, "evaluate", RUN).fields().items()}
    except (OSError, ValueError) as error:
        raise ValueError(f"evaluate: out must be empty or hold a run, got '{folder}' without a valid {RUN}") from error
    for name, value in facts.items():
        if former.get(name) != value:
            raise ValueError(
                f"evaluate: {name} must be what the run in '{folder}' began with, {former.get(name)}, got {value}"
            )
