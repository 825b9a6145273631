"""Options that several commands have."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Format(StrEnum):
    """What a command prints."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


Model = Annotated[
    str, typer.Option(metavar="PATH", help="tiny (the embedded model), a checkpoint's folder, or its Hub id.")
]
Device = Annotated[str, typer.Option(help="Where to run: cpu, cuda or cuda:1.")]
Dtype = Annotated[str | None, typer.Option(help="float32 or bfloat16. Default: that of the model family.")]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the checkpoint.")]
Attention = Annotated[str | None, typer.Option(help="Attention topology. Default: that of the model.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Denoising steps. Default: those of the model.")]
AnswerLength = Annotated[int | None, typer.Option(min=1, help="Tokens in an answer. Default: that of the model.")]
View = Annotated[str | None, typer.Option(help="View of the image: grid or base. Default: that of the model.")]
VisionTower = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Folder or Hub id of the vision tower. Default: that of the checkpoint."),
]
Data = Annotated[
    str, typer.Option(metavar="NAME", help="scenes, hard-scenes, coco:FOLDER, grandf:FOLDER or folder:FOLDER.")
]
Limit = Annotated[int, typer.Option(min=1, help="Maximum number of samples.")]
DataSeed = Annotated[int | None, typer.Option(min=0, help="Seed of the scenes. Default: that of the selection scenes.")]
SceneSeed = Annotated[int, typer.Option(min=0, help="Seed of the scenes.")]
Hard = Annotated[
    bool, typer.Option("--hard", help="Up to six objects that overlap and look alike, on richer backgrounds.")
]
