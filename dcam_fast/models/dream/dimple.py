"""Dimple (`model_type` dimple, arXiv 2505.16990), by the code that comes with the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor

from dcam_fast.models.adapter import AdapterError
from dcam_fast.models.checkpoint import Releases
from dcam_fast.models.dream.adapter import DreamAdapter, adapt, load_checkpoint

Attention = Literal["prefix", "joint"]
THRESHOLD: Final = 0.95


class DimpleAdapter(DreamAdapter):
    """Answers of 64 tokens, by confident decoding.

    Every step unmasks the positions whose guess is above a confidence threshold. Where there is no such position,
    it unmasks the most confident ones, as many as the official schedule says (`maskgit_plus`). Without
    a temperature nothing is sampled, so the same question has the same answer.
    """

    family = "dimple"
    transformers = Releases("4.46", "4.52", "the authors' vision configuration lacks attributes that 4.52 requires")
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
        threshold: float = THRESHOLD,
    ) -> None:
        """
        Args:
            model: a `DimpleModel`.
            processor: the checkpoint's, with its chat template.
            name: shown in results.
            attention: topology of the generation and of its replay (None: prefix, as in the official example).
            answer_length: tokens in an answer.
            threshold: the probability above which a guess is unmasked at once.

        Raises:
            AdapterError: for a causal model or an attention that it does not support.
        """
        if not getattr(model.config, "full_attn_mask", True):
            raise AdapterError("dimple: full_attn_mask in the model's config must be true, got false")
        self.threshold = threshold
        super().__init__(model, processor, name=name, attention=attention, answer_length=answer_length)

    def num_to_unmask(self, num_masked: int, step: int, times: Tensor) -> int:
        """The number due at the first of the remaining times at which any token is due."""
        share = torch.tensor(num_masked, device=times.device) / self.answer_length
        due = (num_masked * (1 - times / share)).int()
        due[-1] = num_masked
        due = due[step + 1 :]
        return int(due[due > 0][0])

    def confidences(self, logits: Tensor, probabilities: Tensor) -> Tensor:
        """Probabilities among all tokens, whatever the temperature."""
        return logits.softmax(-1)

    def choose(self, confidence: Tensor, count: int) -> Tensor:
        confident = (confidence > self.threshold).nonzero()[:, 0]
        return confident if len(confident) else super().choose(confidence, count)


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
        DimpleAdapter,
        path,
        name=name,
        device=device,
        trust_remote_code=trust_remote_code,
        dtype=dtype,
        attention=attention,
        answer_length=answer_length,
    )


def adapter_of(
    model: Any,
    processor: Any,
    *,
    name: str,
    attention: str | None = None,
    answer_length: int | None = None,
    threshold: float | None = None,
) -> DreamAdapter:
    """See `dcam_fast.models.adapter_of`. The processor is the checkpoint's."""
    return adapt(
        DimpleAdapter,
        model,
        processor,
        name=name,
        attention=attention,
        answer_length=answer_length,
        threshold=threshold,
    )
