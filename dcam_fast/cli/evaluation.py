"""The commands that say which map is right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dcam_fast.cli.console import check_name, one_line, out_console, progress_bar

DATA = "scenes, hard-scenes, coco:FOLDER, grandf:FOLDER or folder:FOLDER."


@one_line
def evaluate(
    out: Annotated[Path, typer.Option(help="Folder of the run; one that was stopped there goes on.")] = Path(
        "dcam-evaluation"
    ),
    model: Annotated[str, typer.Option(help="The model.")] = "tiny",
    attention: Annotated[str | None, typer.Option(help="Attention topology; without it, the model's own.")] = None,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda or cuda:1.")] = "cpu",
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16. Without it: as the family has it.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let code that comes with the checkpoint run.")
    ] = False,
    data: Annotated[str, typer.Option(help=DATA, metavar="NAME")] = "scenes",
    method: Annotated[
        list[str] | None,
        typer.Option(help="A method, or true_mask; may be repeated. Without it: all but llava_cam_smooth."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="One refinement for all methods, by name. Without it: as each has it.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Samples at most.")] = 200,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the scenes; without it, those to choose on.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps; without it, the model's own.")] = None,
    share: Annotated[
        list[float] | None,
        typer.Option(
            help="Share of the cells to delete and insert; may be repeated, ascending. Without it: 1/64, 1/8."
        ),
    ] = None,
    randomize: Annotated[int, typer.Option(min=0, help="Samples of the model-randomization test.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the samples, each with the model.")] = 1,
) -> None:
    """Measure which maps are right, on images whose named things have masks."""
    with out_console.status("loading"):
        from dcam_fast.attribution import METHODS
        from dcam_fast.config import profile as profile_named
        from dcam_fast.evaluation import report, runner
        from dcam_fast.evaluation.datasets import open_dataset
        from dcam_fast.evaluation.datasets.synthetic import SELECTION_SEED
        from dcam_fast.evaluation.perturbation import SHARES
        from dcam_fast.models import check_dtype

        if dtype is not None:
            check_name(check_dtype, dtype, "--dtype")
        for name in method or ():
            check_name(lambda name: runner.check_methods((name,)), name, "--method")
        if profile is not None:
            check_name(profile_named, profile, "--profile")
        settings = runner.Settings(
            model=model,
            data=data,
            methods=tuple(method or [n for n in (*METHODS, runner.TRUE_MASK) if n != "llava_cam_smooth"]),
            seed=SELECTION_SEED if seed is None else seed,
            attention=attention,
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            profile=profile,
            steps=steps,
            shares=tuple(share or SHARES),
            randomized=randomize,
        )
        dataset = open_dataset(data, limit=limit, seed=settings.seed)
        adapter = settings.load()
    with progress_bar() as progress:
        task = progress.add_task("evaluating", total=None)
        records = runner.run(
            adapter,
            dataset,
            settings,
            out,
            limit,
            lambda done, total: progress.update(task, completed=done, total=total),
            workers,
        )
    with out_console.status("writing the report"):
        summary = runner.summarize(records, settings)
        runner.write_summary(summary, settings, out)
        report.write_report(adapter, dataset, settings, records, summary, out)
    if not summary.words:
        need = "data must be such that the answers name what is annotated"
        raise ValueError(f"evaluate: {need}, got 0 words of {summary.samples} samples; see '{out / report.PAGE}'")
    for name, row in summary.table.items():
        shown = ("pointing", "obj_iou", "f3", "deletion_area", "inter_word_correlation")
        figures = "  ".join(f"{metric} {row[metric].value:.3f}" for metric in shown if metric in row)
        out_console.print(f"{name:16} {figures}", markup=False)
    out_console.print(f"\n{summary.words} words of {summary.named} of {summary.samples} samples", markup=False)
    out_console.print(f"{summary.missing} regions that no word of the answers names: not measured", markup=False)
    out_console.print(f"report  {out / report.PAGE}", markup=False)


@one_line
def reproduce(
    study: Annotated[str, typer.Argument(help="table1, table2 or sensitivity.")],
    out: Annotated[Path, typer.Option(help="Folder for the table, as Markdown and JSON.")] = Path("dcam-reproduction"),
    model: Annotated[str, typer.Option(help="The model.")] = "tiny",
    attention: Annotated[str | None, typer.Option(help="Attention topology; without it, the model's own.")] = None,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda or cuda:1.")] = "cpu",
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16. Without it: as the family has it.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let code that comes with the checkpoint run.")
    ] = False,
    data: Annotated[str, typer.Option(help=DATA, metavar="NAME")] = "scenes",
    limit: Annotated[int, typer.Option(min=1, help="Samples at most.")] = 200,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the scenes; without it, those to choose on.")] = None,
) -> None:
    """Run the paper's comparison, ablation or study of hyper-parameters, beside the published figures."""
    with out_console.status("loading"):
        from dcam_fast import models
        from dcam_fast.evaluation.datasets import open_dataset
        from dcam_fast.evaluation.datasets.synthetic import SELECTION_SEED
        from dcam_fast.evaluation.studies import reproduction
        from dcam_fast.folders import check_writable

        if study not in reproduction.STUDIES:
            known = ", ".join(reproduction.STUDIES)
            message = f"reproduce: study must be one of {known}, got {study!r}"
            raise typer.BadParameter(message, param_hint="STUDY")
        if dtype is not None:
            check_name(models.check_dtype, dtype, "--dtype")
        chosen = reproduction.STUDIES[study]
        seed = SELECTION_SEED if seed is None else seed
        dataset = open_dataset(data, limit=limit, seed=seed)
        adapter = models.load(
            model, device=device, attention=attention, dtype=dtype, trust_remote_code=trust_remote_code
        )
    check_writable(out, "reproduce")
    with progress_bar() as progress:
        task = progress.add_task(study, total=None)
        result = reproduction.reproduce(
            adapter,
            dataset,
            chosen,
            limit,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    if not result.words:
        need = "data must be such that the answers name what is annotated"
        raise ValueError(f"reproduce: {need}, got 0 words of {min(limit, len(dataset))} samples")
    facts: dict[str, object] = {
        "model": model,
        "attention": attention,
        "dtype": dtype,
        "data": data,
        "limit": limit,
        "seed": seed,
    }
    table, _ = reproduction.write(chosen, result, study, facts, out)
    out_console.print(table.read_text("utf-8"), markup=False)
    out_console.print(f"table  {table}", markup=False)
