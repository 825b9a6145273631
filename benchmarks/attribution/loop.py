"""A thousand explanations in a loop, and as many streams left half-way: resident memory stays within 20 MB of what it
is after the first 50.

``./run python -m dcam_fast.benchmarks.attribution.loop --out benchmarks/results/DATE-loop.json``.

The questions have answers of a few words, so that a loop takes minutes; images are of several sizes.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from dcam_fast import Explainer, scenes
from dcam_fast.benchmarks.results import describe_machine, now

SETTLED = 50  # explanations until every buffer and cache has its size
ALLOWED = 20 * 2**20
SIZES = ((128, 128), (96, 128), (160, 112))
PROMPTS = ("how many objects ?", "what is the background ?")


def resident() -> int:
    """Bytes of this process that are in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("loop: /proc/self/status must tell VmRSS, got a system where it does not")


def main(
    count: Annotated[int, typer.Option(min=SETTLED + 1, help="Explanations.")] = 1000,
    attention: Annotated[str, typer.Option(help="Attention topology, prefix or joint.")] = "prefix",
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Prints resident memory along the way; exit code 1 where it moved by more than is allowed."""
    head = {"date": now(), "machine": describe_machine("cpu"), "attention": attention, "explanations": count}
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
    result = head | {"seconds": time.perf_counter() - started, "resident_bytes": memory, "moved_bytes": moved}
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
    if moved > ALLOWED:
        sys.exit(f"loop: memory must stay within {ALLOWED >> 20} MiB, got {moved / 2**20:.1f} MiB more or less")


if __name__ == "__main__":
    typer.run(main)
