"""A thousand explanations in a loop, and as many streams left half-way: resident memory stays within 20 MB of what it
is after the first 50. ``./run python -m dcam_fast.benchmarks.loop``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from dcam_fast import Explainer
from dcam_fast.models.tiny import scenes

ALLOWED = 20 * 2**20


def resident() -> int:
    """Bytes of this process that are in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("loop: /proc/self/status must tell VmRSS, got a system where it does not")


def main(
    count: Annotated[int, typer.Option(help="Explanations.")] = 1000,
    attention: Annotated[str, typer.Option(help="Attention topology, prefix or joint.")] = "prefix",
) -> None:
    """Prints resident memory along the way; exit code 1 where it grew by more than is allowed."""
    explainer = Explainer.from_pretrained("tiny", attention=attention)
    rng = np.random.default_rng(0)
    settled = 0
    for index in range(1, count + 1):
        image = scenes.sample_scene(rng).image
        explainer.explain(image)
        next(explainer.stream(image))
        if index == 50:
            settled = resident()
        if index % 50 == 0:
            typer.echo(f"{index:5} explanations  {resident() / 2**20:8.1f} MiB")
    if settled and resident() - settled > ALLOWED:
        sys.exit(f"loop: memory must stay within 20 MiB, got {(resident() - settled) / 2**20:.1f} MiB more")


if __name__ == "__main__":
    typer.run(main)
