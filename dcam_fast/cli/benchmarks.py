"""The work of `dcam-fast bench`: run, print and write the benchmarks, or compare two results."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dcam_fast.benchmarks.files import write
from dcam_fast.benchmarks.results import Results
from dcam_fast.benchmarks.suite import BenchmarkPlan, quick_plan, run
from dcam_fast.benchmarks.tables import compare, markdown, terminal
from dcam_fast.folders import check_writable
from dcam_fast.models import check_device


def bench(
    device: str,
    quick: bool,
    only: str,
    backends: tuple[str, ...],
    out: Path | None,
    console: Console,
    elapsed_s: float = 0.0,
) -> None:
    """Runs the benchmarks, prints their results, and writes them.

    Args:
        device: where to run.
        quick: only the main cases, in less than a minute.
        only: cases whose name contains this.
        backends: of the ops; empty for all that are available.
        out: folder to write to; None writes nothing.
        console: to print to.
        elapsed_s: seconds already spent, which count as part of a quick run.
    """
    check_device("bench", device)
    plan = (
        quick_plan(device, only, backends, elapsed_s) if quick else BenchmarkPlan(device, only=only, backends=backends)
    )
    if out is not None:
        check_writable(out, "bench")
    with console.status("starting") as status:
        results = run(plan, lambda name: status.update(f"measuring {name}"))
    if console.is_terminal:
        console.print(terminal(results), soft_wrap=False)
    else:  # a pipe or a file has no width
        console.print(markdown(results, level=2), markup=False, soft_wrap=True)
    if out is not None:
        for path in write(results, out, f"{date.today()}-{device.replace(':', '')}"):
            console.print(str(path), markup=False)


def show_changes(before: Path, after: Path, console: Console) -> None:
    """Prints which cases got faster or slower by more than the spread."""
    changes = compare(_read(before), _read(after))
    if not changes:
        console.print("nothing changed beyond the spread")
        return
    if not console.is_terminal:
        for row in changes:
            console.print(" | ".join(row), markup=False, soft_wrap=True)
        return
    table = Table("case", "implementation", "cache", "change")
    for row in changes:
        table.add_row(*row)
    console.print(table, soft_wrap=False)


def _read(path: Path) -> Results:
    """The results in a file.

    Raises:
        ValueError: if it is not a result file; the message names it.
    """
    try:
        return Results.from_json(path.read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"bench: compare must name result files of bench, got '{path}' ({reason})") from error
