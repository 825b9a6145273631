"""The command line `dcam-fast`: its global options and its commands."""

from __future__ import annotations

import signal
import sys
import warnings
from typing import Annotated

import typer
from rich.text import Text

import dcam_fast
from dcam_fast._version import __version__
from dcam_fast.cli.commands.bench import bench
from dcam_fast.cli.commands.demo import demo
from dcam_fast.cli.commands.evaluate import evaluate
from dcam_fast.cli.commands.explain import explain
from dcam_fast.cli.commands.reproduce import reproduce
from dcam_fast.cli.commands.scenes import scenes
from dcam_fast.cli.commands.serve import serve
from dcam_fast.cli.commands.train import train_tiny
from dcam_fast.cli.console import error_console, error_options, one_line, out_console


@one_line
def env() -> None:
    """Show what is installed and built, which backends are available, and why the others are not."""
    with out_console.status("inspecting"):
        facts = str(dcam_fast.env())
    out_console.print(facts, markup=False)


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
for command in (demo, explain, serve, evaluate, reproduce, bench, env, scenes, train_tiny):
    app.command()(command)


def _print_version(requested: bool) -> None:
    if requested:
        out_console.print(f"dcam-fast {__version__}")
        raise typer.Exit


@app.callback()
def global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """A heat map over the image for every word of a diffusion multimodal LLM's answer."""
    error_options.debug = debug


def main() -> None:
    """Runs the command line; see `dcam-fast --help`."""
    from PIL import Image

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # an answer may have characters that the terminal cannot show
            stream.reconfigure(errors="replace")
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # load_image has an error for it
    warnings.showwarning = lambda message, *_, **__: error_console.print(
        Text("note: ", "bold yellow") + Text(" ".join(str(message).split()))
    )
    signal.signal(signal.SIGTERM, _terminate)
    app(prog_name="dcam-fast")


def _terminate(number: int, frame: object) -> None:
    """Ends the process by an exception, so that drafts are removed; a second signal ends it at once."""
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(128 + number)
