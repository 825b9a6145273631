"""What all commands share: where they write to, their progress, and errors as one line."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec

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

out_console = Console(highlight=False, soft_wrap=True)
error_console = Console(highlight=False, soft_wrap=True, stderr=True)
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
    """A command whose errors are one line and exit code 1, unless --debug asks for more."""

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
