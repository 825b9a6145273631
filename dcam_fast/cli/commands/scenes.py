"""`dcam-fast scenes`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcam_fast.cli.console import one_line, out_console
from dcam_fast.cli.options import Hard, SceneSeed


@one_line
def scenes(
    out: Annotated[Path, typer.Option(help="Output folder. Earlier scenes in it are replaced.")] = Path("dcam-scenes"),
    count: Annotated[int, typer.Option("--scenes", min=1, max=9999, help="Number of scenes.")] = 8,
    seed: SceneSeed = 7,
    hard: Hard = False,
) -> None:
    """Write synthetic scenes with captions, questions and a mask for each object."""
    with out_console.status("drawing"):
        from dcam_fast.scenes.export import RECORD, write_scenes

        write_scenes(out, count, seed, hard)
    out_console.print(f"{count} scenes  {out / RECORD}", markup=False)
