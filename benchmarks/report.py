"""Writes the measured parts of README.md and docs/ from the committed result files:
``./run python -m dcam_fast.benchmarks.report``.

Each part stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``. ``--check`` only fails if one is stale.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dcam_fast.benchmarks import report_attribution, report_evaluation, report_latency
from dcam_fast.benchmarks.results import Results
from dcam_fast.benchmarks.suite import EXPLANATION
from dcam_fast.benchmarks.tables import markdown

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "docs/evaluation.md", "docs/reproduction.md", "docs/attribution.md", "docs/threads.md")
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


def latency() -> str:
    """Latency beside busy processes, once a run is committed."""
    if not any(RESULTS.glob("*-latency.json")):
        return "No run is committed yet."
    return report_latency.latency(*newest("*-latency.json"))


PARTS: dict[str, Callable[[], str]] = {
    "performance": performance,
    "latency": latency,
    "accuracy": accuracy,
    "evaluation-summary": lambda: report_evaluation.summary(*newest("*-evaluation.json")),
    "evaluation": lambda: report_evaluation.whole(*newest("*-evaluation.json")),
    "evaluation-hard": lambda: report_evaluation.whole(*newest("*-evaluation-hard.json")),
    "evaluation-refined": lambda: report_evaluation.summary(*newest("*-evaluation-refined.json")),
    "randomization": lambda: report_evaluation.randomization(*newest("*-evaluation.json")),
    "search": lambda: report_evaluation.search(*newest("*-search.json")),
    "table1": lambda: report_evaluation.study(*newest("*-table1.json")),
    "table2": lambda: report_evaluation.study(*newest("*-table2.json")),
    "sensitivity": lambda: report_evaluation.study(*newest("*-sensitivity.json")),
    "passes": lambda: report_attribution.attribution(*newest("*-attribution.json")),
    "approximations": lambda: report_attribution.approximations(*newest("*-approximations.json")),
}


def render(text: str) -> str:
    """``text`` with every measured part it holds written again."""
    for name, write in PARTS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if pattern.search(text):
            part = write()
            text = pattern.sub(lambda match, part=part: f"{match[1]}{part}\n{match[2]}", text)  # type: ignore[misc]
    return text


def main() -> None:
    stale = []
    for path in (ROOT / document for document in DOCUMENTS):
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
