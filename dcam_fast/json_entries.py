"""Checked values from JSON files. Errors name the file and the path of the value in it."""

from __future__ import annotations

import json
import reprlib
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


@dataclass(frozen=True)
class Entry:
    """A JSON value with its path, for error messages. Methods return it as a checked type, or raise ValueError.

    >>> entry = Entry({"id": 3}, "read", "annotations[0]")
    >>> entry.field("id").integer()
    3
    >>> entry.field("id").text()
    Traceback (most recent call last):
    ValueError: read: annotations[0].id must be text, got 3

    Attributes:
        value: the JSON value.
        caller: the function that reads it, which errors name.
        name: its path in the file, such as `annotations[3].image_id`; empty for the whole file.
        path: the file; None if there is no file.
    """

    value: Any
    caller: str
    name: str
    path: Path | None = None

    def error(self, need: str, got: object = None) -> ValueError:
        """The error `<caller>: <name> must be <need>, got <got> in <path>`. `got` defaults to the value."""
        shown = _SHORT.repr(self.value) if got is None else got
        place = "" if self.path is None else f" in '{self.path}'"
        return ValueError(f"{self.caller}: {self.name or 'content'} must be {need}, got {shown}{place}")

    def field(self, key: str) -> Entry:
        """The value of a key of an object."""
        if not isinstance(self.value, dict) or key not in self.value:
            raise self.error(f"an object with {key!r}")
        return self._part(self.value[key], f".{key}")

    def fields(self) -> dict[str, Entry]:
        """The values of an object, by key."""
        if not isinstance(self.value, dict):
            raise self.error("an object")
        return {key: self._part(value, f".{key}") for key, value in self.value.items()}

    def list(self) -> list[Entry]:
        """The values of a list."""
        if not isinstance(self.value, list):
            raise self.error("a list")
        return [self._part(value, f"[{index}]") for index, value in enumerate(self.value)]

    def _part(self, value: object, place: str) -> Entry:
        return Entry(value, self.caller, f"{self.name}{place}".lstrip("."), self.path)

    def text(self) -> str:
        """A string."""
        if not isinstance(self.value, str):
            raise self.error("text")
        return self.value

    def integer(self, low: int | None = None, high: int | None = None) -> int:
        """An integer, from `low` to `high` if these are given."""
        value = self.value
        is_valid = isinstance(value, int) and not isinstance(value, bool)
        if not is_valid or (low is not None and value < low) or (high is not None and value > high):
            limits = "" if low is None else f" from {low}" if high is None else f" from {low} to {high}"
            raise self.error(f"an integer{limits}")
        return int(value)

    def number(self) -> float:
        """A finite number."""
        # an integer may be too large for a float
        is_valid = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if not is_valid or not abs(self.value) <= sys.float_info.max:
            raise self.error("a finite number")
        return float(self.value)

    def key(self) -> int | str:
        """An identifier: an integer or a string."""
        return self.value if isinstance(self.value, str) else self.integer()

    def file_in(self, folder: Path) -> Path:
        """The path of a file in a folder, whose relative path is the value."""
        name = self.text()
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            raise self.error(f"the path of a file in '{folder}'")
        return folder / name


def read_json(path: Path, caller: str, description: str) -> Entry:
    """The content of a JSON file.

    Args:
        path: the file.
        caller: the function that errors name.
        description: of the file, for errors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{caller}: {description} must be a file that exists, got '{path}'")
    try:
        return Entry(json.loads(path.read_text("utf-8")), caller, "", path)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{caller}: {description} must be JSON, got '{path}': {error}") from error
