"""Memory leaks: a thousand explanations and as many unfinished streams, on images of several sizes.

Run: `./run python -m dcam_fast.benchmarks.attribution.loop --out benchmarks/results/DATE-loop.json` (minutes: answers
are short). Fails if resident memory moves by more than 20 MiB after the first 50 explanations.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from dcam_fast import Explainer, scenes
from dcam_fast.benchmarks.results import header, write_result

SETTLED = 50  # explanations until buffers and caches have their final size
ALLOWED = 20 * 2**20
SIZES = ((128, 128), (96, 128), (160, 112))
PROMPTS = ("how many objects ?", "what is the background ?")


def resident() -> int:
    """Resident memory of this process, bytes.

    Raises:
        RuntimeError: The system does not report it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("loop: /proc/self/status must hold VmRSS, got a system without it")


def main(
    count: Annotated[int, typer.Option(min=SETTLED + 1, help="Explanations.")] = 1000,
    attention: Annotated[str, typer.Option(help="Attention topology, prefix or joint.")] = "prefix",
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Prints resident memory; exits with 1 if it moved by more than `ALLOWED`."""
    head = header("cpu")
    explainer = Explainer.from_pretrained("tiny", attention=attention)
    rng = np.random.default_rng(0)
    started = time.perf_counter()
    memory: dict[int, int] = {}
    for index in range(1, count + 1):
        image = scenes.sample_scene(rng, *SIZES[index % len(SIZES)]).image
        prompt = PROMPTS[index % len(PROMPTS)]
        explainer.explain(image, prompt, "all")
        next(explainer.stream(image, prompt))
        if index % SETTLED == 0 or index == count:
            memory[index] = resident()
            typer.echo(f"{index:5} explanations  {memory[index] / 2**20:8.1f} MiB")
    moved = max(abs(later - memory[SETTLED]) for later in memory.values())
    seconds = time.perf_counter() - started
    if out:
        write_result(
            out, head, attention=attention, explanations=count, seconds=seconds, resident_bytes=memory,
            moved_bytes=moved,
        )  # fmt: skip
    if moved > ALLOWED:
        sys.exit(f"loop: memory must stay within {ALLOWED >> 20} MiB, got {moved / 2**20:.1f} MiB more or less")


if __name__ == "__main__":
    typer.run(main)
