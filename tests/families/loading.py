"""What must hold of a checkpoint that is loaded: of stubs in the tests, of the authors' code in `check_real.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import checks
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dcam_fast import Explainer, models
from dcam_fast.models.generation import Generation

DTYPES = (torch.float32, torch.bfloat16)


def check_loading(folder: Path, steps: int, **options: Any) -> int:
    """Weights stored in either dtype are, in each requested dtype, those of the files, and explain an answer.
    `options` are those of `models.load`. Returns how many combinations were loaded."""
    for stored in DTYPES:
        store(folder, stored)
        for requested in (None, *DTYPES):
            adapter: Any = models.load(str(folder), dtype=requested, **options)
            dtype = requested or torch.float32  # the default on a CPU
            assert {parameter.dtype for parameter in adapter.model.parameters()} == {dtype}, f"{stored} as {requested}"
            state = adapter.model.state_dict()
            for file in files(folder):
                with safe_open(file, framework="pt") as opened:
                    for key in opened.keys():  # noqa: SIM118
                        assert state[key].equal(opened.get_tensor(key).to(dtype)), f"{key} is not that of {file.name}"
            explanation = Explainer(adapter).explain(
                checks.picture(60, 90), checks.PROMPT, [0], generation=Generation(steps=steps)
            )
            assert bool(explanation.raw_maps.isfinite().all())
    return len(DTYPES) * (len(DTYPES) + 1)


def store(folder: Path, dtype: torch.dtype) -> None:
    for file in files(folder):
        weights = {key: tensor.to(dtype) for key, tensor in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})


def files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.safetensors"))
    assert found
    return found
