"""`dcam-fast explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.text import Text

from dcam_fast.cli.console import (
    check_name,
    colored_answer,
    error_console,
    load_explainer,
    one_line,
    out_console,
    progress_bar,
    report_error,
)
from dcam_fast.cli.options import (
    AnswerLength,
    Attention,
    Device,
    Dtype,
    Model,
    Steps,
    TrustRemoteCode,
    View,
    VisionTower,
)

if TYPE_CHECKING:
    from dcam_fast.models.given import GivenAnswer
    from dcam_fast.streaming import Step

STREAM_LEGEND: Final = (
    "Each line: step, answer so far (_ is masked), new tokens with the pixel (x, y) at the center of the strongest "
    'cell of their map. The saved maps are those of the steps (state "committed").'
)


@one_line
def explain(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Images of any size and mode.")],
    prompt: Annotated[
        str | None, typer.Option(help="The question. Default: the model's request for a caption.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="A word or phrase of the answer, 'red>blue' for red rather than blue, or 'all'; repeatable. Default: "
            "the content words."
        ),
    ] = None,
    answer: Annotated[
        str | None, typer.Option(help="Explain this answer of another engine to one image. Nothing is generated.")
    ] = None,
    answer_file: Annotated[
        Path | None,
        typer.Option(
            help="As --answer, from a file: text, or *.json with 'text', or with 'tokens' and maybe the 'steps' that "
            "wrote them."
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="Attribution method: default, published, grad_cam, tam, ...")] = "default",
    profile: Annotated[
        str | None,
        typer.Option(help="Refinement: default, unguided, released or paper. Default: that of the method."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Output folder, with one folder for each image.")] = Path("dcam-out"),
    model: Model = "tiny",
    device: Device = "cpu",
    trust_remote_code: TrustRemoteCode = False,
    dtype: Dtype = None,
    attention: Attention = None,
    answer_length: AnswerLength = None,
    view: View = None,
    vision_tower: VisionTower = None,
    steps: Steps = None,
    block_length: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens that are denoised before the next ones. Default: that of the model."),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, help="Of the sampling; 0 takes the most likely tokens. Default: that of the model."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling.")] = 0,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Print each token when it is unmasked, with the pixel (x, y) where its map is strongest. Saves the "
            "maps of the steps (state committed). Needs a gradient method.",
        ),
    ] = False,
    scores: Annotated[
        bool, typer.Option("--scores/--no-scores", help="Compute the scores that take passes, such as groundedness.")
    ] = True,
) -> None:
    """Explain a model's answers about images."""
    with out_console.status("loading"):
        from dcam_fast.attribution.methods.presets import method_named
        from dcam_fast.config import profile as profile_named
        from dcam_fast.contrast import Contrast, split_contrast
        from dcam_fast.folders import check_replaceable
        from dcam_fast.models import check_dtype
        from dcam_fast.models.generation import Generation
        from dcam_fast.output.files import PAGE, RECORD

    check_name(method_named, method, "--method")
    if profile is not None:
        check_name(profile_named, profile, "--profile")
    if dtype is not None:
        check_name(check_dtype, dtype, "--dtype")
    given = _given_answer(answer, answer_file, one_image=len(images) == 1, stream=stream)
    targets: str | list[str | Contrast] = [split_contrast(item) for item in target or ()] or "content"
    if targets == ["all"]:
        targets = "all"
    generation = Generation(steps, block_length, temperature, seed)
    explainer = load_explainer(
        model,
        device=device,
        trust_remote_code=trust_remote_code,
        dtype=dtype,
        attention=attention,
        answer_length=answer_length,
        view=view,
        vision_tower=vision_tower,
    )

    failures = []
    with progress_bar() as progress:
        named_images = list(zip(images, _folder_names(images), strict=True))
        for image, name in progress.track(named_images, description="explaining"):
            try:
                check_replaceable(out / name, RECORD, "explain")
                if stream:
                    progress.console.print(STREAM_LEGEND, style="dim", markup=False)
                    streamed = explainer.stream(image, prompt, method=method, profile=profile, generation=generation)
                    for step in streamed:
                        progress.console.print(_step_line(step))
                    explanation = streamed.explanation(targets, scores=scores)
                else:
                    explanation = explainer.explain(
                        *(image, prompt, targets),
                        answer=given,
                        method=method,
                        profile=profile,
                        generation=generation,
                        scores=scores,
                    )
                explanation.save(out / name)
            except Exception as error:  # go on with the other images
                failures.append(error)
                continue
            progress.console.print(" ".join(str(image).split()), style="bold", markup=False)
            progress.console.print(Text("  ") + colored_answer(explanation))
            progress.console.print(f"  {out / name / PAGE}", markup=False)
    for failure in failures:
        report_error(failure)
    if failures:
        if len(images) > 1:
            error_console.print(f"{len(failures)} of {len(images)} images could not be explained", style="bold")
        raise typer.Exit(1)


def _given_answer(answer: str | None, file: Path | None, *, one_image: bool, stream: bool) -> str | GivenAnswer | None:
    """The answer that another engine wrote, if there is one.

    Raises:
        typer.BadParameter: for options that exclude each other.
        ValueError: for a file that does not hold an answer.
        OSError: for a file that cannot be read.
    """
    if answer is None and file is None:
        return None
    option = "--answer-file" if answer is None else "--answer"
    for is_allowed, need in (
        (answer is None or file is None, "the only one of --answer and --answer-file"),
        (not stream, "without --stream, which generates the answer"),
        (one_image, "for exactly one image"),
    ):
        if not is_allowed:
            raise typer.BadParameter(f"it must be {need}", param_hint=option)
    return answer if file is None else _read_answer(file)


def _read_answer(file: Path) -> str | GivenAnswer:
    from dcam_fast.json_entries import read_json
    from dcam_fast.models.given import GivenAnswer

    if not file.is_file():
        raise FileNotFoundError(f"explain: --answer-file must be a file that exists, got '{file}'")
    if file.suffix.lower() != ".json":
        try:
            return file.read_text("utf-8-sig").strip()  # some editors begin a file with a byte order mark
        except UnicodeDecodeError as error:
            raise ValueError(f"explain: --answer-file must be UTF-8 text, got '{file}': {error}") from error
    record = read_json(file, "explain", "--answer-file")
    fields = record.fields()
    if "text" in fields:
        if excluded := sorted({"tokens", "steps"} & fields.keys()):
            raise record.error("an object with either 'text' or 'tokens'", f"'text' and {excluded[0]!r}")
        return fields["text"].text()
    names = [name for name in ("tokens", "steps") if name in fields]
    lists = {name: tuple(item.integer() for item in fields[name].list()) for name in names}
    if "tokens" not in lists:
        raise record.error("an object with 'text' or 'tokens'")
    return GivenAnswer(**lists)


def _step_line(step: Step) -> Text:
    """A denoising step, as described by `STREAM_LEGEND`."""
    new_tokens = []
    for token, map in zip(step.tokens, step.maps, strict=True):
        x0, y0, x1, y1 = step.boxes.flatten(0, 1)[map.argmax()].tolist()
        new_tokens.append(f"{token.text} ({(x0 + x1) / 2:.0f}, {(y0 + y1) / 2:.0f})")
    return Text(f"{step.index:4}  ", "dim") + Text(step.text) + Text(f"  {', '.join(new_tokens)}", "dim")


def _folder_names(images: list[Path]) -> list[str]:
    """A distinct folder name for each image: its name without the ending, numbered where that is taken."""
    names: list[str] = []
    for image in images:
        stem = image.stem if image.stem.strip(".") else "image"  # "...png" would name the parent folder
        candidates = [stem, *(f"{stem}-{number}" for number in range(2, len(images) + 1))]
        names.append(next(name for name in candidates if name not in names))
    return names
