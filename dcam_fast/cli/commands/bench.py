"""`dcam-fast bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcam_fast.cli.console import elapsed, one_line, out_console
from dcam_fast.cli.options import Device


@one_line
def bench(
    device: Device = "cpu",
    quick: Annotated[bool, typer.Option("--quick", help="The main cases only, in less than a minute.")] = False,
    only: Annotated[str, typer.Option(help="Cases whose name contains this, such as 'pool' or 'T=64'.")] = "",
    backends: Annotated[
        str, typer.Option(help="Backends of the ops, separated by commas. Default: all that are available.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Output folder for JSON, Markdown and plots.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A.json B.json", help="Only show what changed from A to B.")
    ] = None,
) -> None:
    """Benchmark the ops, the post-processing and explanations, each checked against the reference first."""
    from dcam_fast.cli import benchmarks

    if compare is not None:
        benchmarks.show_changes(*compare, out_console)
        return
    names = tuple(filter(None, backends.split(",")))
    benchmarks.bench(device, quick, only, names, out, out_console, elapsed())
