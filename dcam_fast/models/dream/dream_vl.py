"""Dream-VL (`model_type` dream-vl, arXiv 2512.22615), by the code that comes with the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dcam_fast.models.checkpoint import Releases
from dcam_fast.models.dream.adapter import DreamAdapter, adapt, load_checkpoint

Attention = Literal["joint"]


class DreamVLAdapter(DreamAdapter):
    """Answers of 128 tokens in as many steps.

    Every step unmasks the most confident guesses, as many as the official schedule says (`maskgit_plus`). Without
    a temperature nothing is sampled, so the same question has the same answer.
    """

    family = "dream-vl"
    transformers = Releases("4.46", "4.52", "the authors' processor imports a name that 4.52 moved")
    topologies = ("joint",)
    projector = "projector"
    default_prompt = "Describe this image"

    def __init__(
        self, model: Any, processor: Any, *, name: str, attention: Attention | None = None, answer_length: int = 128
    ) -> None:
        """
        Args:
            model: a `DreamVLModel`.
            processor: the checkpoint's, with its chat template.
            name: shown in results.
            attention: joint, the only topology.
            answer_length: tokens in an answer.

        Raises:
            AdapterError: for another attention.
        """
        super().__init__(model, processor, name=name, attention=attention, answer_length=answer_length)

    def confidences(self, logits: Tensor, probabilities: Tensor) -> Tensor:
        """Probabilities at the temperature, among the `top_k` most likely tokens (of the checkpoint, 50 by default)."""
        return probabilities

    def num_to_unmask(self, num_masked: int, step: int, times: Tensor) -> int:
        """The share of the masked positions that the step has of the remaining time."""
        return num_masked if step == len(times) - 2 else int(num_masked * (1 - times[step + 1] / times[step]))


def load_adapter(
    path: Path,
    *,
    name: str,
    device: str,
    trust_remote_code: bool,
    dtype: torch.dtype | None,
    attention: str | None = None,
    answer_length: int | None = None,
) -> DreamAdapter:
    """See `dcam_fast.models.load`."""
    return load_checkpoint(
        DreamVLAdapter,
        path,
        name=name,
        device=device,
        trust_remote_code=trust_remote_code,
        dtype=dtype,
        attention=attention,
        answer_length=answer_length,
    )


def adapter_of(
    model: Any, processor: Any, *, name: str, attention: str | None = None, answer_length: int | None = None
) -> DreamAdapter:
    """See `dcam_fast.models.adapter_of`. The processor is the checkpoint's."""
    return adapt(DreamVLAdapter, model, processor, name=name, attention=attention, answer_length=answer_length)
