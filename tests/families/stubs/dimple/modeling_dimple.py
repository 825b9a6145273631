from __future__ import annotations

from torch import nn

from .configuration_dimple import DimpleConfig, DimpleVisionConfig
from .generation_utils import DimpleGenerationMixin
from .model import DreamModel
from .vision import Tower


class DimpleModel(DimpleGenerationMixin, DreamModel):
    config_class = DimpleConfig
    projector_name = "img_projector"

    def tower(self, config: DimpleVisionConfig) -> nn.Module:
        return Tower(config, config.hidden_size, config.out_hidden_size)
