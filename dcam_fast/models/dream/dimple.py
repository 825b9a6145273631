"""Dimple (``model_type`` dimple), by the code that comes with the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor

from dcam_fast.models.adapter import AdapterError
from dcam_fast.models.checkpoint import Releases
from dcam_fast.models.dream.adapter import DreamAdapter, load_checkpoint

Attention = Literal["prefix", "joint"]
CONFIDENT: Final = 0.95


class DimpleAdapter(DreamAdapter):
    """Answers of 64 tokens, by confident decoding: every step writes all guesses that are at least as sure as the
    authors' example asks for, and where there is none, as many of the surest ones as their clock allows (maskgit_plus).
    Guesses are the best ones, not sampled, so the same question has the same answer."""

    family = "dimple"
    transformers = Releases("4.46", "4.52", "the authors' configuration of the vision tower lacks what 4.52 asks of it")
    topologies = ("prefix", "joint")
    projector = "img_projector"
    default_prompt = "Describe this image."

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str,
        attention: Attention | None = None,
        answer_length: int = 64,
        confident: float = CONFIDENT,
    ) -> None:
        """
        Args:
            model: a ``DimpleModel``; it is frozen.
            processor: the checkpoint's, with its chat template.
            name: shown in results.
            attention: of the generation, and so of its replay; None: prefix, as in the authors' example.
            answer_length: tokens in an answer.
            confident: the probability above which a guess is written at once.
        """
        if not getattr(model.config, "full_attn_mask", True):
            raise AdapterError("dimple: full_attn_mask in the model's config must be true, got false")
        self.confident = confident
        super().__init__(model, processor, name=name, attention=attention, answer_length=answer_length)

    def num_to_unmask(self, left: int, step: int, times: Tensor) -> int:
        """The first time to come at which any token is due, given how many are written already."""
        share = torch.tensor(left, device=times.device) / self.answer_length
        due = (left * (1 - times / share)).int()
        due[-1] = left
        due = due[step + 1 :]
        return int(due[due > 0][0])

    def choose(self, sure: Tensor, count: int) -> Tensor:
        confident = (sure > self.confident).nonzero()[:, 0]
        return confident if len(confident) else super().choose(sure, count)


def load_adapter(
    path: Path, *, device: str, attention: str | None, trust_remote_code: bool, dtype: torch.dtype | None
) -> DreamAdapter:
    """See `dcam_fast.models.load`."""
    return load_checkpoint(
        DimpleAdapter, path, device=device, attention=attention, trust_remote_code=trust_remote_code, dtype=dtype
    )
