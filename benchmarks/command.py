"""What `dcam-fast bench` does."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .plots import write_plots
from .results import Results
from .suite import Plan, quick_plan, run
from .tables import compare, markdown, terminal


def write(results: Results, folder: Path, stem: str) -> list[Path]:
    """JSON, Markdown and pictures; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(results.to_json())
    (folder / f"{stem}.md").write_text(f"# Benchmarks\n\n{markdown(results, level=2)}\n")
    return [folder / f"{stem}.json", folder / f"{stem}.md", *write_plots(results, folder, stem)]


def bench(
    device: str,
    quick: bool,
    only: str,
    faces: tuple[str, ...],
    out: Path | None,
    console: Console,
    elapsed_s: float = 0.0,
) -> None:
    """Measures, prints, and writes to `out` if given. A quick run counts `elapsed_s` as part of its minute."""
    plan = quick_plan(device, only, faces, elapsed_s) if quick else Plan(device, only=only, faces=faces)
    with console.status("starting") as status:
        results = run(plan, lambda name: status.update(f"measuring {name}"))
    if console.is_terminal:
        console.print(terminal(results), soft_wrap=False)
    else:  # a pipe or a file, which has no width to fit in
        console.print(markdown(results, level=2), markup=False, soft_wrap=True)
    if out is not None:
        for path in write(results, out, f"{date.today()}-{device.replace(':', '')}"):
            console.print(str(path), markup=False)


def show_changes(before: Path, after: Path, console: Console) -> None:
    """What got faster or slower beyond the spread."""
    changes = compare(*(Results.from_json(path.read_text()) for path in (before, after)))
    if not changes:
        console.print("nothing changed beyond the spread")
        return
    if not console.is_terminal:
        for row in changes:
            console.print(" | ".join(row), markup=False, soft_wrap=True)
        return
    table = Table("case", "contender", "cache", "change")
    for row in changes:
        table.add_row(*row)
    console.print(table, soft_wrap=False)
