"""The command line. Whatever is slow to import is imported by the command that needs it."""

from __future__ import annotations

import signal
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

import dcam_fast
from dcam_fast._version import __version__
from dcam_fast.cli import evaluation as commands
from dcam_fast.cli.console import (
    check_name,
    elapsed,
    error_console,
    one_line,
    out_console,
    progress_bar,
    report_error,
    settings,
)

if TYPE_CHECKING:
    from dcam_fast.explainer import Explainer
    from dcam_fast.explanation import Explanation
    from dcam_fast.streaming import Step

HARD = "Hard scenes: up to six objects that overlap and look alike, on richer backgrounds."
STREAM_LEGEND = (
    "step, answer so far (_ is still open), then each new token with the pixel (x, y) in the middle of its map's "
    'strongest cell; the maps saved are of the state "committed", as each step had it'
)
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _print_version(wanted: bool) -> None:
    if wanted:
        out_console.print(f"dcam-fast {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    """For every word of a diffusion multimodal LLM's answer, a heat map over the image."""
    settings.debug = debug


def _load_explainer(
    model: str = "tiny", device: str = "cpu", trust_remote_code: bool = False, dtype: str | None = None
) -> Explainer:
    with out_console.status("loading the model"):
        from dcam_fast import Explainer

        return Explainer.from_pretrained(model, device=device, trust_remote_code=trust_remote_code, dtype=dtype)


def _colored(explanation: Explanation) -> Text:
    """The answer, its targets in the color of their groundedness."""
    from dcam_fast.output.pictures import groundedness_color

    text = Text()
    for piece in explanation.pieces():
        if piece.target is None:
            text.append(piece.text, "dim")
        else:
            red, green, blue = groundedness_color(explanation.targets[piece.target].groundedness)
            text.append(piece.text, f"bold rgb({red},{green},{blue})")
    return text


def _step(step: Step) -> Text:
    """A denoising step, as `STREAM_LEGEND` says."""
    written = []
    for token, map in zip(step.tokens, step.maps, strict=True):
        x0, y0, x1, y1 = step.boxes.flatten(0, 1)[map.argmax()].tolist()
        written.append(f"{token.text} ({(x0 + x1) / 2:.0f}, {(y0 + y1) / 2:.0f})")
    return Text(f"{step.index:4}  ", "dim") + Text(step.text) + Text(f"  {', '.join(written)}", "dim")


@app.command()
@one_line
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to; an earlier demo there is replaced.")] = Path(
        "dcam-demo"
    ),
    scenes: Annotated[int, typer.Option(min=1, max=99, help="How many scenes.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Which scenes.")] = 7,
    hard: Annotated[bool, typer.Option("--hard", help=HARD)] = False,
) -> None:
    """Explain what the embedded model answers about some scenes."""
    with out_console.status("loading"):
        from dcam_fast.cli import demonstration
        from dcam_fast.folders import check_replaceable
        from dcam_fast.output.files import SHEET
        from dcam_fast.output.pictures import groundedness_color

        check_replaceable(out, demonstration.RECORD, "demo")
        plan = demonstration.rounds(scenes, seed, hard)
    explainer = _load_explainer()

    with progress_bar() as progress:
        task = progress.add_task("explaining", total=len(plan))

        def show(one: demonstration.Round, explanation: Explanation) -> None:
            if one.folder.endswith("/caption"):
                progress.console.print(f"\n{one.folder.partition('/')[0]}", style="bold")
            progress.console.print(Text("  ") + Text(one.prompt, "italic dim"))
            wrong = "" if one.is_right(explanation.answer) else f"  (right is: {one.expected})"
            progress.console.print(Text("    ") + _colored(explanation) + Text(wrong, "yellow"))
            progress.advance(task)

        demonstration.run(explainer, plan, out, show)
    scale = Text("\ncolour is groundedness, whether a word points at something in the image: ", "dim")
    for tenths in range(0, 11, 2):
        scale.append(f" {tenths / 10:.1f}", "bold rgb({},{},{})".format(*groundedness_color(tenths / 10)))
    out_console.print(scale)
    out_console.print(f"\ncontact sheet  {out / SHEET}\npages          {out / demonstration.INDEX}", markup=False)


@app.command()
@one_line
def explain(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures of any size and mode.")],
    prompt: Annotated[str | None, typer.Option(help="What to ask; without it, for a caption.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="A word or phrase of the answer, or 'all'; may be repeated. Without it: content words."),
    ] = None,
    method: Annotated[str, typer.Option(help="How maps are made: default, published, grad_cam, tam, ...")] = "default",
    profile: Annotated[
        str | None,
        typer.Option(help="Refinement: default, unguided, released or paper. Without it: as the method has it."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write to, into one folder per image.")] = Path("dcam-out"),
    model: Annotated[
        str, typer.Option(help="The model: tiny, the embedded one, or a folder with a checkpoint.", metavar="PATH")
    ] = "tiny",
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda or cuda:1.")] = "cpu",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let code that comes with the checkpoint run.")
    ] = False,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16. Without it: as the family has it.")] = None,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Show every token as it is written, and the pixel (x, y) where its map is strongest. The maps saved "
            "are those of the steps (state committed). For Diffusion-CAM's kind of method.",
        ),
    ] = False,
) -> None:
    """Explain what a model answers about images."""
    with out_console.status("loading"):
        from dcam_fast.attribution.methods.presets import method_named
        from dcam_fast.config import profile as profile_named
        from dcam_fast.folders import check_replaceable
        from dcam_fast.models import check_dtype
        from dcam_fast.output.files import PAGE, RECORD

    check_name(method_named, method, "--method")
    if profile is not None:
        check_name(profile_named, profile, "--profile")
    if dtype is not None:
        check_name(check_dtype, dtype, "--dtype")
    targets: str | list[str] = target or "content"
    if targets == ["all"]:
        targets = "all"
    explainer = _load_explainer(model, device, trust_remote_code, dtype)

    failures = []
    with progress_bar() as progress:
        for image, name in progress.track(
            list(zip(images, _folder_names(images), strict=True)), description="explaining"
        ):
            try:
                check_replaceable(out / name, RECORD, "explain")
                if stream:
                    progress.console.print(STREAM_LEGEND, style="dim", markup=False)
                    steps = explainer.stream(image, prompt, method=method, profile=profile)
                    for step in steps:
                        progress.console.print(_step(step))
                    explanation = steps.explanation(targets)
                else:
                    explanation = explainer.explain(image, prompt, targets, method=method, profile=profile)
                explanation.save(out / name)
            except Exception as error:  # the other images are still worth it
                failures.append(error)
                continue
            progress.console.print(" ".join(str(image).split()), style="bold", markup=False)
            progress.console.print(Text("  ") + _colored(explanation))
            progress.console.print(f"  {out / name / PAGE}", markup=False)
    for failure in failures:
        report_error(failure)
    if failures:
        if len(images) > 1:
            error_console.print(f"{len(failures)} of {len(images)} images could not be explained", style="bold")
        raise typer.Exit(1)


def _folder_names(images: list[Path]) -> list[str]:
    """A different folder name for each image: its own without the ending, numbered where that is taken."""
    names: list[str] = []
    for image in images:
        stem = image.stem if image.stem.strip(".") else "image"  # "...png" would name the folder above
        same = [stem, *(f"{stem}-{number}" for number in range(2, len(images) + 1))]
        names.append(next(name for name in same if name not in names))
    return names


app.command()(commands.evaluate)
app.command()(commands.reproduce)


@app.command()
@one_line
def bench(
    device: Annotated[str, typer.Option(help="Where to run: cpu, cuda or cuda:1.")] = "cpu",
    quick: Annotated[bool, typer.Option("--quick", help="The main cases only, in under a minute.")] = False,
    only: Annotated[str, typer.Option(help="Cases whose name contains this, such as 'pool' or 'T=64'.")] = "",
    backends: Annotated[
        str, typer.Option(help="Backends of the ops, with commas between; without it: all usable.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Folder for JSON, Markdown and plots.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A.json B.json", help="Show what changed from A to B instead.")
    ] = None,
) -> None:
    """Measure the ops, the post-processing and whole explanations, each checked against the reference first."""
    from dcam_fast.cli import benchmarks as command

    if compare is not None:
        command.show_changes(*compare, out_console)
        return
    command.bench(device, quick, only, tuple(filter(None, backends.split(","))), out, out_console, elapsed())


@app.command()
@one_line
def env() -> None:
    """Say what is installed and built here, what can be used, and why something can not."""
    with out_console.status("looking around"):
        facts = str(dcam_fast.env())
    out_console.print(facts, markup=False)


@app.command()
@one_line
def scenes(
    out: Annotated[Path, typer.Option(help="Folder to write to; earlier scenes there are replaced.")] = Path(
        "dcam-scenes"
    ),
    count: Annotated[int, typer.Option("--scenes", min=1, max=9999, help="How many.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Which ones.")] = 7,
    hard: Annotated[bool, typer.Option("--hard", help=HARD)] = False,
) -> None:
    """Write sample scenes, with captions, questions and a mask for each object."""
    with out_console.status("drawing"):
        from dcam_fast.cli.demonstration import SCENES_RECORD, write_scenes

        write_scenes(out, count, seed, hard)
    out_console.print(f"{count} scenes  {out / SCENES_RECORD}", markup=False)


@app.command()
@one_line
def train_tiny(
    folder: Annotated[Path, typer.Argument(help="Checkpoints go here; a run that was stopped goes on from the last.")],
    scale: Annotated[float, typer.Option(help="Share of the steps, 1/n of them; 0.01 is a smoke test.")] = 1.0,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the blocks: faster, needs a C++ compiler.")
    ] = False,
) -> None:
    """Train the embedded model again."""
    from dcam_fast.models.tiny.train import train

    model = train(folder, scale=scale, compile=compile)
    out_console.print(f"model  {model}", markup=False)


def main() -> None:
    """Runs the command line; see `dcam-fast --help`."""
    from PIL import Image

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # an answer can hold what a terminal cannot show
            stream.reconfigure(errors="replace")
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # an image that is too large is our own error
    warnings.showwarning = lambda message, *_, **__: error_console.print(
        Text("note: ", "bold yellow") + Text(" ".join(str(message).split()))
    )
    signal.signal(signal.SIGTERM, _end)
    app(prog_name="dcam-fast")


def _end(number: int, frame: object) -> None:
    """Ends the process by an exception, so that drafts are removed; the next signal ends it at once."""
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(128 + number)
