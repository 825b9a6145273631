"""`dcam-fast evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from dcam_fast.cli.console import check_name, one_line, out_console, progress_bar
from dcam_fast.cli.options import (
    AnswerLength,
    Attention,
    Data,
    DataSeed,
    Device,
    Dtype,
    Limit,
    Model,
    Steps,
    TrustRemoteCode,
    View,
    VisionTower,
)

PRINTED: Final = ("pointing", "obj_iou", "f3", "deletion_area", "inter_word_correlation")
SLOW: Final = ("llava_cam_smooth",)  # only on request


@one_line
def evaluate(
    out: Annotated[Path, typer.Option(help="Folder of the run. A stopped run continues in its folder.")] = Path(
        "dcam-evaluation"
    ),
    model: Model = "tiny",
    attention: Attention = None,
    answer_length: AnswerLength = None,
    view: View = None,
    vision_tower: VisionTower = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    trust_remote_code: TrustRemoteCode = False,
    data: Data = "scenes",
    method: Annotated[
        list[str] | None,
        typer.Option(help="A method, or true_mask; repeatable. Default: all but llava_cam_smooth."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="One refinement for all methods, by name. Default: that of each method.")
    ] = None,
    limit: Limit = 200,
    seed: DataSeed = None,
    steps: Steps = None,
    share: Annotated[
        list[float] | None,
        typer.Option(help="Share of the cells to delete and insert; repeatable, ascending. Default: 1/64, 1/8."),
    ] = None,
    randomize: Annotated[int, typer.Option(min=0, help="Number of samples of the model-randomization test.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the samples, each with the model.")] = 1,
) -> None:
    """Measure which maps are right, on images with masks of the named regions."""
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
        config = runner.EvaluationConfig(
            model=model,
            data=data,
            methods=tuple(method or [name for name in (*METHODS, runner.TRUE_MASK) if name not in SLOW]),
            seed=SELECTION_SEED if seed is None else seed,
            attention=attention,
            answer_length=answer_length,
            view=view,
            vision_tower=vision_tower,
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            profile=profile,
            steps=steps,
            shares=tuple(share or SHARES),
            randomized=randomize,
        )
        dataset = open_dataset(data, limit=limit, seed=config.seed)
        adapter = config.load()
    with progress_bar() as progress:
        task = progress.add_task("evaluating", total=None)
        records = runner.run(
            adapter,
            dataset,
            config,
            out,
            limit,
            lambda done, total: progress.update(task, completed=done, total=total),
            workers,
        )
    with out_console.status("writing the report"):
        summary = runner.summarize(records, config)
        runner.write_summary(summary, config, out)
        report.write_report(adapter, dataset, config, records, summary, out)
    if not summary.words:
        need = "data must have regions that the answers name"
        raise ValueError(f"evaluate: {need}, got 0 words of {summary.samples} samples; see '{out / report.PAGE}'")
    for name, row in summary.table.items():
        values = "  ".join(f"{metric} {row[metric].value:.3f}" for metric in PRINTED if metric in row)
        out_console.print(f"{name:16} {values}", markup=False)
    out_console.print(f"\n{summary.words} words of {summary.named} of {summary.samples} samples", markup=False)
    out_console.print(f"{summary.missing} regions not measured, because no word names them", markup=False)
    out_console.print(f"report  {out / report.PAGE}", markup=False)
