"""Writes the measured parts of README.md and docs/ from the committed result files.

Run: `./run python -m dcam_fast.benchmarks.report`. Each part stands between `<!-- NAME -->` and `<!-- /NAME -->`. With
`--check` nothing is written, and the exit code is 1 if a part is stale.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dcam_fast.benchmarks import report_attribution, report_evaluation, report_latency, report_many, report_service
from dcam_fast.benchmarks.results import Results
from dcam_fast.benchmarks.suite import EXPLANATION
from dcam_fast.benchmarks.tables import markdown, readable
from dcam_fast.evaluation.runner import TRUE_MASK
from dcam_fast.output.tables import markdown_table

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    "README.md",
    "docs/performance.md",
    "docs/evaluation.md",
    "docs/embedded-model.md",
    "docs/reproduction.md",
    "docs/attribution.md",
    "docs/threads.md",
    "docs/service.md",
)
RESULTS = ROOT / "benchmarks" / "results"


def newest(pattern: str) -> tuple[str, dict[str, Any]]:
    """Name and content of the newest result file of a kind. Names begin with the date."""
    path = max(RESULTS.glob(pattern))
    return path.name, json.loads(path.read_text())


# The cases in docs/performance.md; the result file and its Markdown have all cases.
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
    """The main cases of the newest CPU run, and its plots."""
    name, data = newest("*-cpu.json")
    stem = name.removesuffix(".json")
    results = Results.from_json(json.dumps(data))
    pictures = [path.name for path in sorted(RESULTS.glob(f"{stem}-*.png"))]
    lines = [f"From `benchmarks/results/{name}`.", "", markdown(results, level=2, only=SHOWN)]
    lines += [line for file in pictures for line in ("", f"![{file}](../benchmarks/results/{file})")]
    return "\n".join(lines)


def accuracy() -> str:
    """Exact answers of the embedded model by kind."""
    name, data = newest("*-accuracy.json")
    columns = list(data["accuracy"].values())
    rows = [
        [kind, *(f"{column[kind]['exact']:.1%}" if kind in column else "" for column in columns)]
        for kind in dict.fromkeys(kind for column in columns for kind in column)
    ]
    about = f"On {data['scenes']} held-out scenes of each kind; from `benchmarks/results/{name}`."
    return "\n".join([about, "", markdown_table(["exactly right answers", *data["accuracy"]], rows)])


def latency() -> str:
    """Latency next to busy processes."""
    return report_latency.latency(*newest("*-latency.json"))


PUBLISHED = "published"
# Rows of the summary: metric of the evaluation, what it says, whether higher is better.
QUALITY = (
    ("pointing", "strongest cell on the named object ↑", True),
    ("obj_iou", "overlap with that object's mask (IoU) ↑", True),
    ("deletion_1.56%", "word's probability without its 4 strongest cells ↓", False),
)
# And cases of the CPU run, with a cold cache.
SPEED = {
    "refine released 48x48 float32 T=1": "refinement of one 48x48 map",
    "diffusion_cam pooled, released 27x27 D=4096 bfloat16 T=1": "pooling and refinement of one 27x27 map",
}


def summary() -> str:
    """Six rows: how right and how fast, for the published method, the best baseline and this package."""
    evaluation_name, evaluation = newest("*-evaluation.json")
    speed_name, speed = newest("*-cpu.json")
    passes_name, passes = newest("*-attribution.json")
    rows = []
    table = evaluation["table"]
    baselines = [name for name in table if name not in ("default", PUBLISHED, TRUE_MASK)]
    for metric, title, higher in QUALITY:
        best = (max if higher else min)(baselines, key=lambda name: table[name][metric]["value"])
        published, other, ours = (table[name][metric]["value"] for name in (PUBLISHED, best, "default"))
        rows.append([title, f"{published:.2f}", f"{other:.2f} ({best})", f"**{ours:.2f}**"])
    for case, title in SPEED.items():
        timed = {
            entry["implementation"]: entry["median"]
            for entry in speed["entries"]
            if entry["case"] == case and entry["cache"] == "cold" and entry["median"] is not None
        }
        official, ours = timed["official algorithm, Python loop"], timed["dcam_fast cpu"]
        best = min((name for name in timed if not name.startswith("dcam_fast")), key=timed.__getitem__)
        rows.append([title, readable(official), f"{readable(timed[best])} ({best})", f"**{readable(ours)}**"])
    seconds = {name: row["seconds"] for name, row in passes["results"][0]["rows"].items()}
    ours = readable(seconds["dcam_fast, prefix, remask"])
    rows.append(["raw maps of 8 words, embedded model", readable(seconds[PUBLISHED]), "", f"**{ours}**"])
    files = ", ".join(f"`{name}`" for name in (evaluation_name, speed_name, passes_name))
    headers = ["", "published method", "best baseline", "dcam_fast"]
    about = f"{evaluation['words']} words; times on {speed['machine']['cores']} CPU cores. From {files}."
    return "\n".join([markdown_table(headers, rows), "", about])


PARTS: dict[str, Callable[[], str]] = {
    "summary": summary,
    "performance": performance,
    "latency": latency,
    "viewer": lambda: report_latency.frames(*newest("*-viewer.json")),
    "service": lambda: report_service.service(*newest("*-service.json")),
    "many": lambda: report_many.many(*newest("*-many.json")),
    "budgets": lambda: report_many.budgets(*newest("*-budgets.json")),
    "accuracy": accuracy,
    "evaluation": lambda: report_evaluation.whole(*newest("*-evaluation.json")),
    "evaluation-hard": lambda: report_evaluation.whole(*newest("*-evaluation-hard.json")),
    "evaluation-refined": lambda: report_evaluation.summary(*newest("*-evaluation-refined.json")),
    "contrast": lambda: report_attribution.contrast(*newest("*-contrast.json")),
    "randomization": lambda: report_evaluation.randomization(*newest("*-evaluation.json")),
    "wrong-words": lambda: report_evaluation.wrong_words(*newest("*-wrong-words.json")),
    "search": lambda: report_evaluation.search(*newest("*-search.json")),
    "table1": lambda: report_evaluation.study(*newest("*-table1.json")),
    "table2": lambda: report_evaluation.study(*newest("*-table2.json")),
    "sensitivity": lambda: report_evaluation.study(*newest("*-sensitivity.json")),
    "passes": lambda: report_attribution.attribution(*newest("*-attribution.json")),
    "approximations": lambda: report_attribution.approximations(*newest("*-approximations.json")),
}


def render(text: str) -> str:
    """`text` with all its measured parts written again."""
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
        sys.exit(f"report: {', '.join(stale)} must match the result files, run `python -m dcam_fast.benchmarks.report`")


if __name__ == "__main__":
    main()
