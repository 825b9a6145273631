"""What `dcam-fast bench` does."""

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
    """Measures, prints, and writes to `out` if given. A quick run counts `elapsed_s` as part of its minute."""
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
    else:  # a pipe or a file, which has no width to fit in
        console.print(markdown(results, level=2), markup=False, soft_wrap=True)
    if out is not None:
        for path in write(results, out, f"{date.today()}-{device.replace(':', '')}"):
            console.print(str(path), markup=False)


def show_changes(before: Path, after: Path, console: Console) -> None:
    """What got faster or slower beyond the spread."""
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
    """A result file. Raises ValueError, naming it, for any other."""
    try:
        return Results.from_json(path.read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"bench: compare must name result files of bench, got '{path}' ({reason})") from error
