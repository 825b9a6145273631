"""Writes the measured parts of README.md and docs/ from the committed result files:
``./run python -m dcam_fast.benchmarks.report``.

Each part stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``. ``--check`` only fails if one is stale.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from . import report_attribution
from .results import Results
from .suite import EXPLANATION
from .tables import markdown

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def newest(pattern: str) -> tuple[str, dict[str, Any]]:
    """Name and content of the newest result file of a kind (their names begin with the date)."""
    path = max(RESULTS.glob(pattern))
    return path.name, json.loads(path.read_text())


# The cases that README.md shows; the result file and its Markdown have all of them.
SHOWN = (
    "pool elementwise 27x27 D=4096 bfloat16 T=1",
    "pool elementwise 27x27 D=4096 bfloat16 T=16",
    "refine released 27x27 float32 T=1",
    "refine released 48x48 float32 T=1",
    "refine released 48x48 float32 T=8",
    "overlay turbo 27x27 1920x1080 px float32 T=1",
    "diffusion_cam pooled, released 27x27 D=4096 bfloat16 T=1",
    EXPLANATION,
)


def performance() -> str:
    """The main cases of the newest CPU run, and its pictures."""
    name, data = newest("*-cpu.json")
    stem = name.removesuffix(".json")
    results = Results.from_json(json.dumps(data))
    pictures = [path.name for path in sorted(RESULTS.glob(f"{stem}-*.png"))]
    lines = [f"From `benchmarks/results/{name}`.", "", markdown(results, only=SHOWN)]
    lines += [line for file in pictures for line in ("", f"![{file}](benchmarks/results/{file})")]
    return "\n".join(lines)


def localisation() -> str:
    """The localisation table of the test scenes."""
    from dcam_fast.evaluation.localisation import format_table

    name, data = newest("*-localisation.json")
    return (
        f"{data['words']} words of {data['right_captions']} right captions of {data['scenes']} held-out scenes; "
        f"from `benchmarks/results/{name}`.\n\n{format_table(data)}"
    )


def accuracy() -> str:
    """Exact answers of the embedded model by kind."""
    name, data = newest("*-accuracy.json")
    lines = [
        f"On {data['scenes']} held-out scenes of each sort; from `benchmarks/results/{name}`.",
        "",
        f"| answers exactly right | {' | '.join(data['accuracy'])} |",
        f"| --- |{' ---: |' * len(data['accuracy'])}",
    ]
    columns = list(data["accuracy"].values())
    for kind in dict.fromkeys(kind for column in columns for kind in column):
        cells = [f"{column[kind]['exact']:.1%}" if kind in column else "" for column in columns]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def search() -> str:
    """The best entries of both rounds of the search, and the published form's place in the first."""
    from dcam_fast.evaluation.search import describe

    name, data = newest("*-search.json")
    lines = [f"{data['scenes']} selection scenes; from `benchmarks/results/{name}`.", ""]
    lines += [
        "| rank | objective | state | aggregation | blocks | hit | iou | f3 |",
        "| ---: |" + " --- |" * 4 + " ---: |" * 3,
    ]
    published = ("contrast_sum", "final", "pooled")
    ranked = list(enumerate(data["raw"], 1))
    first = next(row for row in ranked if tuple(row[1][k] for k in ("objective", "state", "aggregation")) == published)
    for rank, entry in [*ranked[:8], first]:
        names = " | ".join(entry[key] for key in ("objective", "state", "aggregation"))
        blocks = ", ".join(map(str, entry["blocks"]))
        lines.append(f"| {rank} | {names} | {blocks} | {entry['hit']:.3f} | {entry['iou']:.3f} | {entry['f3']:.3f} |")
    lines += ["", f"(of {len(ranked)}; the last row is the best of the published form)", ""]
    lines += ["| rank | refinement | hit | iou | concentration | f3 |", "| ---: | --- |" + " ---: |" * 4]
    for rank, entry in enumerate(data["profiles"][:8], 1):
        figures = " | ".join(f"{entry[key]:.3f}" for key in ("hit", "iou", "concentration", "f3"))
        lines.append(f"| {rank} | {describe(entry['profile'])} | {figures} |")
    return "\n".join(lines)


def passes() -> str:
    """The attribution pass against the published flow."""
    return report_attribution.attribution(*newest("*-attribution.json"))


def approximations() -> str:
    """What the approximate modes lose and gain."""
    return report_attribution.approximations(*newest("*-approximations.json"))


PARTS = {
    "performance": performance,
    "localisation": localisation,
    "accuracy": accuracy,
    "search": search,
    "passes": passes,
    "approximations": approximations,
}


def render(text: str) -> str:
    """``text`` with every measured part it holds written anew."""
    for name, write in PARTS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if pattern.search(text):
            part = write()
            text = pattern.sub(lambda match, part=part: f"{match[1]}{part}\n{match[2]}", text)  # type: ignore[misc]
    return text


def main() -> None:
    stale = []
    for path in (ROOT / "README.md", ROOT / "docs" / "evaluation.md", ROOT / "docs" / "attribution.md"):
        before = path.read_text()
        after = render(before)
        if after != before:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(after)
    if stale and "--check" in sys.argv:
        sys.exit(f"report: {', '.join(stale)} must be what dcam_fast.benchmarks.report writes, run it again")


if __name__ == "__main__":
    main()
