from __future__ import annotations

import torch
from torch import Tensor


class DimpleGenerationMixin:
    """Confident decoding (dim): all above the threshold, or as many as the schedule says."""

    stops_early = True

    def confidences(self, logits: Tensor, weights: Tensor) -> Tensor:
        return logits.softmax(-1)

    def chosen(
        self, confidence: Tensor, num_masked: int, step: int, times: Tensor, length: int, threshold: float | None
    ) -> Tensor:
        if step == len(times) - 2:
            return torch.arange(num_masked)
        confident = (confidence > threshold).nonzero()[:, 0]
        if len(confident):
            return confident
        reached = torch.tensor(num_masked) / length
        for time in times[step + 1 : -1]:
            count = int(num_masked * (1 - time / reached))
            if count >= 1:
                return confidence.topk(count).indices
        return torch.arange(num_masked)
