from __future__ import annotations

import torch
from torch import Tensor


class DreamVLGenerationMixin:
    """As many of the most confident as the schedule says, which may be none."""

    stops_early = False

    def confidences(self, logits: Tensor, weights: Tensor) -> Tensor:
        return weights

    def chosen(
        self, confidence: Tensor, num_masked: int, step: int, times: Tensor, length: int, threshold: float | None
    ) -> Tensor:
        if step == len(times) - 2:
            return torch.arange(num_masked)
        return confidence.topk(int(num_masked * (1 - times[step + 1] / times[step]))).indices
