"""Plots of the results, 800 pixels wide: latency by T, latency by grid, share of the limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dcam_fast.benchmarks.results import Entry, Results, origin_of

CACHE = "cold"


def _series(entries: list[Entry], along: str, title: str, label: str) -> Figure:
    """Medians with spread, one line per implementation, one panel per op."""
    figure = Figure(figsize=(8, 4), dpi=100, layout="constrained")
    ops = list(dict.fromkeys((entry.op, entry.variant) for entry in entries))
    panels = figure.subplots(1, max(len(ops), 1), squeeze=False)[0]
    names = list(dict.fromkeys(entry.implementation for entry in entries))
    for panel, (op, variant) in zip(panels, ops, strict=False):
        panel_entries = [entry for entry in entries if (entry.op, entry.variant) == (op, variant)]
        for index, name in enumerate(names):
            line = sorted((e for e in panel_entries if e.implementation == name), key=lambda e: getattr(e, along))
            _draw(panel, line, along, name, index)
        floor = sorted({(getattr(e, along), e.floor * 1e6) for e in panel_entries if e.floor})
        panel.plot([x for x, _ in floor], [y for _, y in floor], "k:", label="limit of the machine")
        panel.set(xscale="log", yscale="log", title=f"{op}\n{variant}", xlabel=label)
        ticks = sorted({getattr(entry, along) for entry in panel_entries})
        panel.set_xticks(ticks, [str(tick) for tick in ticks])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("µs per call")
    handles = {label: handle for p in panels for handle, label in zip(*p.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def _draw(panel: Axes, line: list[Entry], along: str, name: str, index: int) -> None:
    if not line:
        return
    x = [getattr(entry, along) for entry in line]
    style: dict[str, Any] = {"linewidth": 2.5} if origin_of(name) != "baseline" else {"linewidth": 1.2, "alpha": 0.8}
    panel.plot(
        x, [e.median * 1e6 for e in line if e.median], "o-", color=f"C{index}", label=name, markersize=4, **style
    )
    panel.fill_between(
        x, [e.p10 * 1e6 for e in line if e.p10], [e.p90 * 1e6 for e in line if e.p90], color=f"C{index}", alpha=0.15
    )


def _shares(entries: list[Entry]) -> Figure:
    """The share of the limit for the backends of this package and custom implementations, one bar per case."""
    chosen = [entry for entry in entries if entry.share and origin_of(entry.implementation) != "baseline"]
    figure = Figure(figsize=(8, max(2.5, 0.24 * len(chosen) + 1)), dpi=100, layout="constrained")
    panel = figure.subplots()
    labels = [f"{entry.case} ({entry.implementation.removeprefix('dcam_fast ')})" for entry in chosen]
    colors = ["C1" if origin_of(entry.implementation) == "custom" else "C0" for entry in chosen]
    bars = panel.barh(range(len(chosen)), [100 * (entry.share or 0) for entry in chosen], color=colors)
    panel.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
    panel.set_yticks(range(len(chosen)), labels, fontsize=8)
    panel.set(xscale="log", xlabel="% of the limit (copy bandwidth or arithmetic), cold")
    panel.set_xlim(right=2 * panel.get_xlim()[1])  # space for the labels
    panel.invert_yaxis()
    panel.grid(axis="x", alpha=0.3)
    return figure


def _most_varied(entries: list[Entry], fixed: str, along: str, preferred: int) -> int:
    """The value of `fixed` whose entries have the most values of `along`; `preferred` if several have."""
    found: dict[int, set[int]] = {}
    for entry in entries:
        found.setdefault(getattr(entry, fixed), set()).add(getattr(entry, along))
    return max(found, key=lambda value: (len(found[value]), value == preferred, -value))


def write_plots(results: Results, folder: Path, stem: str) -> list[Path]:
    """Writes the plots that the results have data for; returns their paths.

    They show the main variants of the ops, or all cases if none is of these.
    """
    timed = [e for e in results.entries if e.cache == CACHE and e.median is not None]
    square = {("pool", "elementwise"), ("refine", "released"), ("diffusion_cam", "pooled, released")}
    main = [e for e in timed if (e.op, e.variant) in square and (e.op == "refine" or "D=4096" in e.case)]
    main = main or timed
    if not main:
        return []
    cells, targets = _most_varied(main, "cells", "targets", 729), _most_varied(main, "targets", "cells", 1)
    against_t = [entry for entry in main if entry.cells == cells]
    against_grid = [entry for entry in main if entry.targets == targets]
    figures = {
        "targets": _series(against_t, "targets", f"Latency by number of targets T, {cells} cells", "T"),
        "grid": _series(against_grid, "cells", f"Latency by grid, T = {targets}", "cells"),
        "limit": _shares(main),
    }
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{stem}-{name}.png")
        figure.savefig(paths[-1])
    return paths
