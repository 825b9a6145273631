"""Frame times of the page in a browser without a window: a 1920x1080 image, 64 words, maps of 27x27 cells.

Run: `./run python -m dcam_fast.benchmarks.viewer --out benchmarks/results/DATE-viewer.json` (a minute, two cores).
Needs playwright and an installed Chromium. The exported picture is checked against `dcam_fast.ops.overlay` first. Each
action then changes the page once a frame. Frames are timed twice: at the browser's rate, and without a limit.

JSON: the header of `results.header`, `browser`, and `rows`, one per action and limit: `action`, `limit` (frames a
second, null without one), `median`, `p95` and `p99` of the seconds from frame to frame, `cpu` (seconds of processor
time that a frame takes on the page's main thread), `frames`, and `per_second`.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image

from dcam_fast import ops
from dcam_fast.benchmarks.results import header, write_result
from dcam_fast.explained_answer import Target, Token
from dcam_fast.explanation import Explanation
from dcam_fast.images import grid_boxes

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LIMIT = 60  # frames a second of a browser without a window
UNLIMITED = ("--disable-frame-rate-limit", "--disable-gpu-vsync")
WORDS, GRID, SIZE = 64, (27, 27), (1080, 1920)
TOLERANCE = 4  # of 255: one entry of the color table, by rounding
# What an action does at frame i of n.
ACTIONS = {
    "scrub the timeline": "input('step', i % 64)",
    "move the threshold": "input('threshold', i % 100)",
    "point at one word after another": "point(i % 64)",
}
TWO_PANES = {"scrub the timeline, two panes": ACTIONS["scrub the timeline"]}
TIMED = """async frames => {
    const input = (id, value) => {
        const control = document.getElementById(id);
        control.value = value;
        control.dispatchEvent(new Event("input", { bubbles: true }));
    };
    input("step", 63);  // where no word is masked
    await new Promise(requestAnimationFrame);
    const words = document.querySelectorAll(".answer .piece");
    const point = i => words[i].dispatchEvent(new PointerEvent("pointerover", { bubbles: true, pointerType: "mouse" }));
    const times = [];
    for (let i = 0; i < frames; i++) {
        ACTION;
        times.push(await new Promise(requestAnimationFrame));
    }
    return times;
}"""


@dataclass(frozen=True)
class Row:
    """Seconds from frame to frame during one action."""

    action: str
    limit: int | None
    median: float
    p95: float
    p99: float
    cpu: float
    frames: int
    per_second: float

    @classmethod
    def from_times(cls, action: str, limit: int | None, milliseconds: Sequence[float], cpu: float) -> Row:
        """From the times of at least three frames."""
        seconds = [(after - before) / 1e3 for before, after in itertools.pairwise(milliseconds)]
        parts = statistics.quantiles(seconds, n=100, method="inclusive")
        rate = len(seconds) / sum(seconds)
        return cls(action, limit, statistics.median(seconds), parts[94], parts[98], cpu, len(seconds), rate)


def explanation() -> Explanation:
    """Noise of the size that is measured; the step that writes a word has its position as number."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    waves = np.stack([np.sin(x / 30) + np.cos(y / 50), np.sin(x * y / 9e4), np.cos(x / 200)], 2)
    maps = torch.from_numpy(rng.integers(0, 256, (WORDS, *GRID)).astype(np.float32) / 255)
    texts = [f"word{index}" for index in range(WORDS)]
    return Explanation(
        image=(60 * waves + 128).clip(0, 255).astype(np.uint8),
        prompt="describe the image",
        answer=" ".join(texts),
        tokens=tuple(Token(text, index, index, index) for index, text in enumerate(texts)),
        targets=tuple(Target(text, (index,), 0.1, 0.5, index / WORDS) for index, text in enumerate(texts)),
        maps=maps,
        raw_maps=maps,
        boxes=grid_boxes(GRID, SIZE),
        provenance={"model": "none"},
    )


def check_drawing(page: Any, shown: Explanation) -> None:
    """Compares the exported picture with the op, on the image as the page has it.

    Raises:
        SystemExit: they differ.
    """
    page.locator("#opacity").fill("100")
    page.locator(".answer .word").nth(3).click()
    page.locator("#export summary").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Picture (PNG)").click()
    got = np.array(Image.open(io.BytesIO(Path(download.value.path()).read_bytes())).convert("RGB")).astype(int)
    colors = page.locator("#colormap").input_value()
    expected = ops.overlay(shown.maps[3:4], torch.from_numpy(shown.image), shown.boxes, colors, 1.0)[0].numpy()
    if got.shape != expected.shape or (worst := np.abs(got - expected).max()) > TOLERANCE:
        detail = f"a picture of {list(got.shape)}" if got.shape != expected.shape else f"a difference of {worst}"
        raise SystemExit(f"viewer: the page must draw as ops.overlay does, got {detail}: nothing measured")
    page.locator("#opacity").fill("55")


def timed(browser: Any, address: str, limit: int | None, frames: int) -> list[Row]:
    """All actions in one browser, after a few frames that are not timed."""
    page = browser.new_page(viewport={"width": 1920, "height": 1080})
    page.goto(address)
    check_drawing(page, explanation())
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def cpu_seconds() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

    rows = []
    for action, code in (ACTIONS | TWO_PANES).items():
        if action in TWO_PANES:
            page.get_by_role("button", name="Compare").click()
        script = TIMED.replace("ACTION", code)
        page.evaluate(script, 10)
        before = cpu_seconds()
        times = page.evaluate(script, frames)
        rows.append(Row.from_times(action, limit, times, (cpu_seconds() - before) / frames))
    page.close()
    return rows


def measure(frames: int) -> tuple[str, list[Row]]:
    """The browser's version, and all rows.

    Raises:
        SystemExit: there is no browser, or the page draws something else than the op.
    """
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise SystemExit(f"viewer: needs a browser, one of {', '.join(BROWSERS)}; nothing measured")
    rows: list[Row] = []
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        saved = Path(folder) / "page.html"
        saved.write_text(explanation().to_html(), "utf-8")
        for limit, arguments in ((LIMIT, ()), (None, UNLIMITED)):
            browser = playwright.chromium.launch(executable_path=path, args=[*sandbox, *arguments])
            version = browser.version
            rows += timed(browser, saved.as_uri(), limit, frames)
            browser.close()
    return version, rows


def main(
    frames: Annotated[int, typer.Option(min=3, help="Frames of each action.")] = 600,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measures, prints, and writes the JSON file."""
    head = header("cpu")
    version, rows = measure(frames)
    for row in rows:
        limit = f"at most {row.limit} a second" if row.limit else "no limit"
        figures = f"{row.median * 1e3:.1f} ms, p95 {row.p95 * 1e3:.1f} ms, {row.per_second:.0f} a second"
        typer.echo(f"{row.action}, {limit}: {figures}; {row.cpu * 1e3:.1f} ms of processor time")
    if out:
        write_result(out, head, browser=f"Chromium {version}", rows=[dataclasses.asdict(row) for row in rows])


if __name__ == "__main__":
    typer.run(main)
