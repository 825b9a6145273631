from __future__ import annotations

import torch
from torch import Tensor


class DimpleGenerationMixin:
    """Confident decoding (dim): all that is surer than the threshold, or what the clock says."""

    stops_early = True

    def chosen(self, sure: Tensor, left: int, step: int, times: Tensor, length: int, threshold: float | None) -> Tensor:
        if step == len(times) - 2:
            return torch.arange(left)
        confident = (sure > threshold).nonzero()[:, 0]
        if len(confident):
            return confident
        reached = torch.tensor(left) / length
        for time in times[step + 1 : -1]:
            count = int(left * (1 - time / reached))
            if count >= 1:
                return sure.topk(count).indices
        return torch.arange(left)
