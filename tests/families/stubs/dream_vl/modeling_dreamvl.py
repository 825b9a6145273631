from __future__ import annotations

from torch import nn

from .configuration_dreamvl import DreamVLConfig, DreamVLVisionConfig
from .generation_utils import DreamVLGenerationMixin
from .model import DreamModel
from .vision import Tower


class DreamVLModel(DreamVLGenerationMixin, DreamModel):
    config_class = DreamVLConfig
    projector_name = "projector"

    def tower(self, config: DreamVLVisionConfig) -> nn.Module:
        return Tower(config, config.embed_dim, config.hidden_size)
