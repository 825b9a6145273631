"""`dcam-fast reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    TrustRemoteCode,
    View,
    VisionTower,
)


@one_line
def reproduce(
    study: Annotated[str, typer.Argument(help="table1, table2 or sensitivity.")],
    out: Annotated[Path, typer.Option(help="Output folder for the table, as Markdown and JSON.")] = Path(
        "dcam-reproduction"
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
    limit: Limit = 200,
    seed: DataSeed = None,
) -> None:
    """Run the paper's comparison, ablation or sensitivity study, next to the published values."""
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
        seed = SELECTION_SEED if seed is None else seed
        dataset = open_dataset(data, limit=limit, seed=seed)
        adapter = models.load(
            model,
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            attention=attention,
            answer_length=answer_length,
            view=view,
            vision_tower=vision_tower,
        )
    check_writable(out, "reproduce")
    with progress_bar() as progress:
        task = progress.add_task(study, total=None)
        result = reproduction.reproduce(
            adapter,
            dataset,
            reproduction.STUDIES[study],
            limit,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    if not result.words:
        need = "data must have regions that the answers name"
        raise ValueError(f"reproduce: {need}, got 0 words of {min(limit, len(dataset))} samples")
    facts: dict[str, object] = {
        "model": model,
        "attention": attention,
        "answer_length": answer_length,
        "view": view,
        "dtype": dtype,
        "data": data,
        "limit": limit,
        "seed": seed,
    }
    table, _ = reproduction.write(reproduction.STUDIES[study], result, study, facts, out)
    out_console.print(table.read_text("utf-8"), markup=False)
    out_console.print(f"table  {table}", markup=False)
