"""`dcam-fast train-tiny`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcam_fast.cli.console import one_line, out_console


@one_line
def train_tiny(
    folder: Annotated[Path, typer.Argument(help="Folder of the checkpoints. A stopped run continues from the last.")],
    scale: Annotated[float, typer.Option(help="Share of the steps, 1/n of them; 0.01 is a smoke test.")] = 1.0,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the layers: faster, needs a C++ compiler.")
    ] = False,
) -> None:
    """Train the embedded model from scratch."""
    from dcam_fast.models.tiny.train import train

    model = train(folder, scale=scale, compile=compile)
    out_console.print(f"model  {model}", markup=False)
