"""Benchmark results on stdout: a table for people, CSV or JSON for programs."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.table import Table

from dcam_fast.benchmarks.results import Entry, Results
from dcam_fast.benchmarks.tables import compare, markdown, terminal
from dcam_fast.cli.options import Format

CHANGE = ("case", "implementation", "cache", "change")


def print_results(results: Results, format: Format, console: Console) -> None:
    """Prints results: JSON is that of a result file, CSV has its entries."""
    if format is Format.JSON:
        typer.echo(results.to_json(), nl=False)
    elif format is Format.CSV:
        columns = [field.name for field in dataclasses.fields(Entry)]
        _print_csv(columns, [list(dataclasses.asdict(entry).values()) for entry in results.entries])
    elif console.is_terminal:
        console.print(terminal(results), soft_wrap=False)
    else:  # a pipe or a file has no width
        console.print(markdown(results, level=2), markup=False, emoji=False, soft_wrap=True)


def print_changes(before: Results, after: Results, format: Format, console: Console) -> None:
    """Prints which cases got faster or slower by more than the spread."""
    changes = compare(before, after)
    if format is Format.JSON:
        typer.echo(json.dumps([dict(zip(CHANGE, row, strict=True)) for row in changes], indent=1))
    elif format is Format.CSV:
        _print_csv(CHANGE, changes)
    elif not changes:
        console.print("nothing changed beyond the spread")
    elif console.is_terminal:
        table = Table(*CHANGE)
        for row in changes:
            table.add_row(*row)
        console.print(table, soft_wrap=False)
    else:
        for row in changes:
            console.print(" | ".join(row), markup=False, emoji=False, soft_wrap=True)


def _print_csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """An empty field is a null of the JSON."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *rows])
    typer.echo(text.getvalue(), nl=False)
