"""Results as files: JSON, Markdown and plots."""

from __future__ import annotations

from pathlib import Path

from dcam_fast.benchmarks.plots import write_plots
from dcam_fast.benchmarks.results import Results
from dcam_fast.benchmarks.tables import markdown
from dcam_fast.folders import replacing, write_text


def write(results: Results, folder: Path, stem: str) -> list[Path]:
    """Writes JSON, Markdown and plots; returns their paths."""
    with replacing(folder, "bench") as draft:
        write_text(draft / f"{stem}.json", results.to_json())
        write_text(draft / f"{stem}.md", f"# Benchmarks\n\n{markdown(results, level=2)}\n")
        plots = write_plots(results, draft, stem)
    return [folder / name for name in (f"{stem}.json", f"{stem}.md", *(plot.name for plot in plots))]
