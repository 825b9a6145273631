"""What all commands share: where they write to, their progress, and errors as one line."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, ParamSpec

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Parameters = ParamSpec("Parameters")

# What a terminal would obey, or read in another order, and the character shown for it; line breaks and tabs stay.
_SHOWN: Final = (
    {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
    | {0x7F: 0x2421}
    | dict.fromkeys((*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD)
)


def visible(text: str) -> str:
    """A text of the same length without control characters: names of files, prompts and answers may hold any."""
    return text.translate(_SHOWN)


class SafeConsole(Console):
    """A console that prints no control character but its own."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich's, of texts made `visible`."""
        super().print(*map(_visible_object, objects), **options)


def _visible_object(shown: Any) -> Any:
    if isinstance(shown, Text):
        safe = shown.copy()
        safe.plain = visible(shown.plain)
        return safe
    return visible(shown) if isinstance(shown, str) else shown


out_console = SafeConsole(highlight=False, soft_wrap=True)
error_console = SafeConsole(highlight=False, soft_wrap=True, stderr=True)
_started = time.monotonic()


def elapsed() -> float:
    """Seconds since the command line began to load."""
    return time.monotonic() - _started


@dataclass
class Settings:
    """What was asked for before the command."""

    debug: bool = False


settings = Settings()


def report_error(error: Exception) -> None:
    """An error as one line; with --debug also where it came from."""
    if settings.debug:
        error_console.print("".join(traceback.format_exception(error)), end="", markup=False)
        return
    message = " ".join(str(error).split())
    ours = isinstance(error, ValueError | TypeError | RuntimeError | OSError) and message
    error_console.print(Text("error: ", "bold red") + Text(message if ours else f"{type(error).__name__}: {message}"))


def one_line(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """A command whose errors are one line and exit code 1, unless --debug asks for more. What was asked for in a wrong
    way is a `typer.BadParameter`, with exit code 2."""

    @functools.wraps(command)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise
        except Exception as error:  # the last place that could make a line of it
            report_error(error)
            raise typer.Exit(1) from error

    return wrapped


def check_name(check: Callable[[str], object], value: str, option: str) -> str:
    """A value that `check` accepts; any other is a usage error of `option`."""
    try:
        check(value)
    except ValueError as error:
        raise typer.BadParameter(visible(str(error)), param_hint=option) from error
    return value


def progress_bar() -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=out_console, transient=True)
