"""What all commands share: consoles, progress bars, errors on one line, and the explainer."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, ParamSpec

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

if TYPE_CHECKING:
    from dcam_fast.explainer import Explainer
    from dcam_fast.explanation import Explanation

Parameters = ParamSpec("Parameters")

# Control and bidirectional characters, and what is shown instead. Line breaks and tabs stay.
_REPLACEMENTS: Final = (
    {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
    | {0x7F: 0x2421}
    | dict.fromkeys((*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD)
)


def visible(text: str) -> str:
    """A text of the same length without control characters, which file names, prompts and answers may have."""
    return text.translate(_REPLACEMENTS)


class SafeConsole(Console):
    """A console that replaces control characters in texts."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As `rich.console.Console.print`, with texts made `visible`."""
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
class ErrorOptions:
    """How errors are shown.

    Attributes:
        debug: with their traceback.
    """

    debug: bool = False


error_options = ErrorOptions()


def report_error(error: Exception) -> None:
    """Prints an error on one line, or its traceback with `--debug`."""
    if error_options.debug:
        error_console.print("".join(traceback.format_exception(error)), end="", markup=False)
        return
    message = " ".join(str(error).split())
    expected = isinstance(error, ValueError | TypeError | RuntimeError | OSError) and message
    error_console.print(
        Text("error: ", "bold red") + Text(message if expected else f"{type(error).__name__}: {message}")
    )


def one_line(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """A command whose errors are printed by `report_error` and have exit code 1.

    A usage error is a `typer.BadParameter`, with exit code 2.
    """

    @functools.wraps(command)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise
        except Exception as error:
            report_error(error)
            raise typer.Exit(1) from error

    return wrapped


def check_name(check: Callable[[str], object], value: str, option: str) -> str:
    """Returns a value that `check` accepts.

    Raises:
        typer.BadParameter: if it raises ValueError; the message names `option`.
    """
    try:
        check(value)
    except ValueError as error:
        raise typer.BadParameter(visible(str(error)), param_hint=option) from error
    return value


def progress_bar() -> Progress:
    """A progress bar with counts and times."""
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


def load_explainer(model: str, **options: Any) -> Explainer:
    """An explainer, as `Explainer.from_pretrained` makes it."""
    with out_console.status("loading the model"):
        from dcam_fast import Explainer

        return Explainer.from_pretrained(model, **options)


def colored_answer(explanation: Explanation) -> Text:
    """The answer, with each target in the color of its groundedness."""
    from dcam_fast.output.pictures import groundedness_color

    text = Text()
    for piece in explanation.pieces():
        if piece.target is None:
            text.append(piece.text, "dim")
        else:
            red, green, blue = groundedness_color(explanation.targets[piece.target].groundedness)
            text.append(piece.text, f"bold rgb({red},{green},{blue})")
    return text
