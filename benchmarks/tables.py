"""Results as tables, for the terminal and for Markdown, and the changes between two runs."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dcam_fast.benchmarks.results import Entry, Results, origin_of
from dcam_fast.output.tables import markdown_table

SCOPES = {
    "op": "One op at a time",
    "post-processing": "Post-processing: pool, then refine, in one call",
    "explanation": "Whole explanation with the embedded model, with and without generation",
}
COLUMNS = {
    "median": "half of the timings are shorter",
    "p10 to p90": "8 of 10 timings lie between; a wide range means a busy machine",
    "limit": "share of the machine's limit, the bandwidth of a copy or the rate of a matrix product",
    "times as fast": "speedup over the first baseline of the same case and cache, in the same run",
}
HEADINGS = ["", "cache", *COLUMNS]
STYLES = {"dcam_fast": "green", "custom": "cyan", "baseline": ""}


def readable(seconds: float) -> str:
    """A time in µs, ms or s.

    >>> readable(0.0123)
    '12.30 ms'
    """
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def describe(results: Results) -> str:
    """Where and how the results were measured, in one paragraph."""
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
    """The rows of a case: cold, warm, then the implementations that were not timed."""
    for cache in ("cold", "warm"):
        timed = [entry for entry in entries if entry.cache == cache and entry.median is not None]
        first = next((entry.median for entry in timed if origin_of(entry.implementation) == "baseline"), None)
        for entry in timed:
            p10, median, p90 = entry.percentiles
            spread = f"{readable(p10)} to {readable(p90)}"
            share = "" if entry.share is None else f"{entry.share:.0%}" if entry.share >= 0.01 else "<1%"
            ratio = first / median if first and entry.scope != "explanation" else None
            faster = "" if ratio is None else f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}"
            yield [entry.implementation, cache, readable(median), spread, share, faster]
    for entry in entries:
        if entry.reason is not None:
            yield [entry.implementation, entry.cache, "-", entry.reason, "", ""]


def terminal(results: Results) -> Group:
    """All results, for rich."""
    parts: list[Text | Table] = [Text(describe(results), "dim")]
    for scope, title in SCOPES.items():
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in HEADINGS:
            table.add_column(column, justify="left" if column in ("", "cache") else "right", overflow="fold")
        for case, entries in grouped(results, scope):
            table.add_row(Text(case, "bold"))
            for row in rows(entries):
                table.add_row(*row, style=STYLES[origin_of(row[0])])
            table.add_section()
        if table.row_count:
            parts.append(table)
    legend = {**COLUMNS, "cold, warm": "the cache was emptied before the call, or holds the data of the last call"}
    parts += [Text(f"{name}: {meaning}", "dim") for name, meaning in legend.items()]
    parts += [Text(note, "yellow") for note in results.notes]
    return Group(*parts)


def markdown(results: Results, *, level: int = 3, only: tuple[str, ...] = ()) -> str:
    """All results as Markdown; only the cases named in `only`, if any are."""
    lines = [describe(results) + ".", ""]
    for scope, title in SCOPES.items():
        chosen = [(case, entries) for case, entries in grouped(results, scope) if not only or case in only]
        if not chosen:
            continue
        lines += [f"{'#' * level} {title}", ""]
        for case, entries in chosen:
            lines += [f"**{case}**", "", markdown_table(HEADINGS, rows(entries), "ll" + "r" * len(COLUMNS)), ""]
    lines += [f"- {name}: {meaning}" for name, meaning in COLUMNS.items()]
    lines += [f"- {note}" for note in results.notes]
    return "\n".join(lines).rstrip()


def compare(before: Results, after: Results) -> list[tuple[str, str, str, str]]:
    """(case, implementation, cache, change) of all whose spreads (p10 to p90) are disjoint, largest change first."""
    old = {entry.key: entry for entry in before.entries}
    changed = []
    for entry in after.entries:
        earlier = old.get(entry.key)
        if earlier is None or earlier.median is None or entry.median is None:
            continue
        (old_p10, old_median, old_p90), (p10, median, p90) = earlier.percentiles, entry.percentiles
        if p90 < old_p10 or p10 > old_p90:
            ratio = old_median / median
            word = f"{ratio:.2f} times as fast" if ratio > 1 else f"takes {1 / ratio:.2f} times as long"
            text = f"{readable(old_median)} to {readable(median)}: {word}"
            changed.append((max(ratio, 1 / ratio), (*entry.key, text)))
    return [row for _, row in sorted(changed, key=lambda pair: -pair[0])]
