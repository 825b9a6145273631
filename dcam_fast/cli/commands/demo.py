"""`dcam-fast demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from dcam_fast.cli.console import colored_answer, load_explainer, one_line, out_console, progress_bar
from dcam_fast.cli.options import Hard, SceneSeed

if TYPE_CHECKING:
    from dcam_fast.cli.demonstration import Round
    from dcam_fast.explanation import Explanation


@one_line
def demo(
    out: Annotated[Path, typer.Option(help="Output folder. An earlier demo in it is replaced.")] = Path("dcam-demo"),
    scenes: Annotated[int, typer.Option(min=1, max=99, help="Number of scenes.")] = 4,
    seed: SceneSeed = 7,
    hard: Hard = False,
) -> None:
    """Explain the embedded model's answers about synthetic scenes."""
    with out_console.status("loading"):
        from dcam_fast.cli import demonstration
        from dcam_fast.folders import check_replaceable
        from dcam_fast.output.files import SHEET
        from dcam_fast.output.pictures import groundedness_color

        check_replaceable(out, demonstration.RECORD, "demo")
        rounds = demonstration.draw_rounds(scenes, seed, hard)
    explainer = load_explainer("tiny")

    with progress_bar() as progress:
        task = progress.add_task("explaining", total=len(rounds))

        def show(finished: Round, explanation: Explanation) -> None:
            if finished.folder.endswith("/caption"):
                progress.console.print(f"\n{finished.folder.partition('/')[0]}", style="bold")
            progress.console.print(Text("  ") + Text(finished.prompt, "italic dim"))
            correction = "" if finished.is_right(explanation.answer) else f"  (correct: {finished.expected})"
            progress.console.print(Text("    ") + colored_answer(explanation) + Text(correction, "yellow"))
            progress.advance(task)

        demonstration.run(explainer, rounds, out, show)
    scale = Text("\ncolor is groundedness, whether a word points at something in the image: ", "dim")
    for tenths in range(0, 11, 2):
        scale.append(f" {tenths / 10:.1f}", "bold rgb({},{},{})".format(*groundedness_color(tenths / 10)))
    out_console.print(scale)
    out_console.print(f"\ncontact sheet  {out / SHEET}\npages          {out / demonstration.INDEX}", markup=False)
