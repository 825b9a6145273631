"""Results as tables: for the terminal and for Markdown, and what changed between two of them."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dcam_fast.benchmarks.results import Entry, Results

SCOPES = {
    "op": "One op at a time",
    "post-processing": "Post-processing: activations and gradients to clean maps (pool, then refine)",
    "explanation": "Whole explanation with the embedded model, generation included and shown apart",
}
COLUMNS = {
    "median": "half of the timings of a call are shorter",
    "p10 to p90": "8 of 10 timings lie between; a wide range means a busy machine",
    "limit": "share of the best the machine could do, by bytes (a copy's bandwidth) or by arithmetic (a matrix "
    "product's rate), whichever takes longer",
    "times as fast": "as the first baseline of the same case and cache, in this run",
}
HEADINGS = ["", "cache", *COLUMNS]


def readable(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def header(results: Results) -> str:
    """Where and how it was measured, in one paragraph."""
    m = results.machine
    return (
        f"{m['device']}, {m['threads']} threads of {m['cores']} cores at {m['mhz']} MHz, governor {m['governor']}, "
        f"load {m['load']} at the start; torch {m['torch']}, triton {m['triton']}, commit {m['commit']}; copy "
        f"{results.limits.bytes_per_s / 1e9:.1f} GB/s, matrix product {results.limits.operations_per_s / 1e9:.0f} "
        f"GFLOP/s; {results.created}"
    )


def grouped(results: Results, scope: str) -> Iterator[tuple[str, list[Entry]]]:
    """The cases of a scope with their entries, in the order they were measured."""
    cases: dict[str, list[Entry]] = {}
    for entry in results.entries:
        if entry.scope == scope:
            cases.setdefault(entry.case, []).append(entry)
    yield from cases.items()


def rows(entries: list[Entry]) -> Iterator[list[str]]:
    """A case's rows, cold then warm, then what was refused."""
    for cache in ("cold", "warm"):
        timed = [entry for entry in entries if entry.cache == cache and entry.median is not None]
        first = next((e.median for e in timed if not e.implementation.startswith("dcam_fast")), None)
        for entry in timed:
            assert entry.median is not None
            assert entry.p10 is not None
            assert entry.p90 is not None
            spread = f"{readable(entry.p10)} to {readable(entry.p90)}"
            share = "" if entry.share is None else f"{entry.share:.0%}" if entry.share >= 0.01 else "<1%"
            ratio = first / entry.median if first and entry.scope != "explanation" else None
            faster = "" if ratio is None else f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}"
            yield [entry.implementation, cache, readable(entry.median), spread, share, faster]
    for entry in entries:
        if entry.reason is not None:
            yield [entry.implementation, entry.cache, "-", entry.reason, "", ""]


def terminal(results: Results) -> Group:
    """All of it, for rich."""
    parts: list[Text | Table] = [Text(header(results), "dim")]
    for scope, title in SCOPES.items():
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in HEADINGS:
            table.add_column(column, justify="left" if column in ("", "cache") else "right", overflow="fold")
        for case, entries in grouped(results, scope):
            table.add_row(Text(case, "bold"))
            for row in rows(entries):
                table.add_row(*row, style="green" if row[0].startswith("dcam_fast") else "")
            table.add_section()
        if table.row_count:
            parts.append(table)
    legend = {**COLUMNS, "cold, warm": "the cache was emptied before the call, or holds what the last call left"}
    parts += [Text(f"{name}: {meaning}", "dim") for name, meaning in legend.items()]
    parts += [Text(note, "yellow") for note in results.notes]
    return Group(*parts)


def markdown(results: Results, *, level: int = 3, only: tuple[str, ...] = ()) -> str:
    """The same as Markdown; with `only`, of the cases whose name is among them."""
    lines = [header(results) + ".", ""]
    for scope, title in SCOPES.items():
        chosen = [(case, entries) for case, entries in grouped(results, scope) if not only or case in only]
        if not chosen:
            continue
        lines += [f"{'#' * level} {title}", ""]
        for case, entries in chosen:
            lines += [f"**{case}**", "", f"| {' | '.join(HEADINGS)} |", "| --- | --- |" + " ---: |" * len(COLUMNS)]
            lines += [f"| {' | '.join(row)} |" for row in rows(entries)]
            lines.append("")
    lines += [f"- {name}: {meaning}" for name, meaning in COLUMNS.items()]
    lines += [f"- {note}" for note in results.notes]
    return "\n".join(lines).rstrip()


def compare(before: Results, after: Results) -> list[tuple[str, str, str, str]]:
    """(case, implementation, cache, what changed) of all whose spreads (p10 to p90) do not meet, largest first."""
    old = {entry.key: entry for entry in before.entries}
    changed = []
    for entry in after.entries:
        was = old.get(entry.key)
        if was is None or was.median is None or entry.median is None:
            continue
        assert was.p10 is not None
        assert was.p90 is not None
        assert entry.p10 is not None
        assert entry.p90 is not None
        if entry.p90 < was.p10 or entry.p10 > was.p90:
            ratio = was.median / entry.median
            word = f"{ratio:.2f} times as fast" if ratio > 1 else f"takes {1 / ratio:.2f} times as long"
            text = f"{readable(was.median)} to {readable(entry.median)}: {word}"
            changed.append((max(ratio, 1 / ratio), (*entry.key, text)))
    return [row for _, row in sorted(changed, key=lambda pair: -pair[0])]
