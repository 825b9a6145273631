"""Folders of results: files are written into a draft and then moved to their places one by one.

The draft is inside the folder. So the folder may be a mount point, the current folder, or in a folder that is not
writable, and keeps its mode and owner. Locks are `flock` on folders, which the system releases with the process. A
draft without a lock is therefore left from a killed process.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Final

_DRAFT: Final = re.compile(r"\.dcam-[0-9a-f]{32}\.new")
_TRIES: Final = 100  # to make a folder that other processes remove
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY
# errors of flock on file systems without locks; files are still moved one by one, but writers do not wait
_NO_LOCKS: Final = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8. A lone surrogate, which stands for a byte of a file name that is not UTF-8, becomes an escape that
    JSON reads as the same surrogate."""
    path.write_bytes(text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: object) -> None:
    """Write JSON; values that JSON does not have are written as strings."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def check_replaceable(folder: Path, record: str, caller: str) -> None:
    """Raise unless `folder` does not exist, is empty, or holds only an earlier save.

    Args:
        folder: the folder to write to.
        record: name of the JSON file in which a save lists its "files".
        caller: the function that the error names.

    Raises:
        FileExistsError: the folder holds something else.
    """
    with naming(folder, caller):
        if not folder.exists():
            return
        _check_is_folder(folder, caller)
        others = sorted(_entries(folder) - _known_files(folder, record))
    if others:
        need = "new, empty or hold nothing but an earlier save"
        raise FileExistsError(f"{caller}: folder must be {need}, got '{folder}' with '{others[0]}' in it")


def check_writable(folder: Path, caller: str) -> None:
    """Make a folder if it does not exist. Raises OSError, naming it, if it cannot be written to."""
    with replacing(folder, caller):
        pass


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Lock an existing folder: wait for its writers and, unless `shared`, for its readers."""
    descriptor = os.open(folder, _FOLDER)
    try:
        _lock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def replacing(folder: Path, caller: str, record: str | None = None) -> Iterator[Path]:
    """Yield an empty draft, whose files replace those in `folder` at the end.

    If anything fails before that, the folder is unchanged, or removed if it is new.

    Args:
        folder: made with its parents if it does not exist.
        caller: the function that errors name.
        record: name of the JSON file in which a save lists its "files". It is moved last, and files of an earlier save
            that the draft does not have are removed. None: no file is removed.

    Raises:
        FileExistsError: `folder` is a file or, with `record`, holds anything but an earlier save.
        OSError: of the type that occurred, naming the folder.
    """
    with naming(folder, caller):
        folder = folder.resolve()  # a link stays a link
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        draft = folder / f".dcam-{uuid.uuid4().hex}.new"
        in_use = None
        try:
            with _made(folder, caller):
                if record is not None:
                    check_replaceable(folder, record, caller)
                _sweep(folder)
                draft.mkdir()
                in_use = os.open(draft, _FOLDER)
                _lock(in_use, fcntl.LOCK_EX)  # until the draft is removed: see `_sweep`
            yield draft
            with locked(folder):
                if record is not None:
                    check_replaceable(folder, record, caller)
                _publish(draft, folder, record)
                shutil.rmtree(draft, ignore_errors=True)
        except BaseException:
            with suppress(OSError), locked(folder):
                shutil.rmtree(draft, ignore_errors=True)
                for place in missing:
                    place.rmdir()  # fails if another process writes there
            raise
        finally:
            if in_use is not None:
                os.close(in_use)


@contextmanager
def _made(folder: Path, caller: str) -> Iterator[None]:
    """Make a folder if it does not exist, and lock it."""
    descriptor = _make(folder, caller)
    try:
        yield
    finally:
        os.close(descriptor)


def _make(folder: Path, caller: str) -> int:
    """Make a folder if it does not exist. Returns an open, locked descriptor of it."""
    for _ in range(_TRIES):
        _check_is_folder(folder, caller)
        with suppress(FileNotFoundError):  # a writer that fails removes the folders that it made
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, _FOLDER)
            _lock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


@contextmanager
def naming(folder: Path, caller: str) -> Iterator[None]:
    """Raise system errors as errors of the same type and number that name the caller and the folder."""
    try:
        yield
    except OSError as error:
        if not error.strerror or _is_elsewhere(error, folder):  # it names its file already
            raise
        named = type(error)(f"{caller}: folder must be writable, got '{folder}': {error.strerror}")
        named.errno = error.errno
        raise named from error


def _is_elsewhere(error: OSError, folder: Path) -> bool:
    """Whether an error is about a file outside of a folder."""
    if not isinstance(error.filename, str):
        return False
    place, folder = Path(error.filename).resolve(), folder.resolve()
    return not (place.is_relative_to(folder) or folder.is_relative_to(place))


def _check_is_folder(folder: Path, caller: str) -> None:
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{caller}: folder must be a folder or not exist, got the file '{folder}'")


def _lock(descriptor: int, operation: int) -> None:
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _publish(draft: Path, folder: Path, record: str | None) -> None:
    """Move the files of a draft to their places.

    Meanwhile the record only lists the files that may exist. So no reader takes a mixture for a save, and the next
    save knows the files that a killed one left.
    """
    files, former = set(files_of(draft)), set()
    if record is not None:
        former = _entries(folder) & _known_files(folder, record)
        unfinished = draft / f"{record}.unfinished"
        write_json(unfinished, {"schema": "unfinished", "files": sorted(files | former)})
        os.replace(unfinished, folder / record)
    for name in sorted(files, key=lambda name: name == record):
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(draft / name, place)
    for name in former - files:
        (folder / name).rmdir() if name.endswith("/") else (folder / name).unlink()
        with suppress(OSError):  # not empty
            for parent in PurePosixPath(name).parents[:-1]:
                (folder / parent).rmdir()


def files_of(folder: Path) -> list[str]:
    """Sorted relative paths of all files in a folder and its subfolders."""
    return sorted(name for name in _entries(folder) if not name.endswith("/"))


def _entries(folder: Path) -> set[str]:
    """Relative paths of the files and links in a folder, and of its empty folders, which end in "/". Drafts are left
    out, and links are not followed."""
    names: set[str] = set()
    for place, folders, files in os.walk(folder, onerror=_raise):
        here = Path(place).relative_to(folder)
        folders[:] = [name for name in folders if not _DRAFT.fullmatch(name)]
        links = [name for name in folders if Path(place, name).is_symlink()]
        names.update(str(here / name) for name in (*files, *links))
        if place != str(folder) and not folders and not files:
            names.add(f"{here}/")
    return names


def _raise(error: OSError) -> None:
    raise error


def _known_files(folder: Path, record: str) -> set[str]:
    """The files of an earlier save by its record, and their folders; empty if there is no valid record."""
    try:
        facts = json.loads((folder / record).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return set()
    files = facts.get("files") if isinstance(facts, dict) and "schema" in facts else None
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        return set()
    return {*files, *(f"{parent}/" for name in files for parent in PurePosixPath(name).parents)}


def _sweep(folder: Path) -> None:
    """Remove the drafts of killed processes."""
    for draft in folder.iterdir():
        if _DRAFT.fullmatch(draft.name) and draft.is_dir() and not draft.is_symlink():
            with suppress(OSError):  # in use, or of another user
                descriptor = os.open(draft, _FOLDER)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(draft)
                finally:
                    os.close(descriptor)
