"""What the models of the stubs share."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from .denoising import Denoising
from .language import Language
from .vision import cell_positions


class Projector(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))


class DreamModel(Denoising, PreTrainedModel):
    config_class = PretrainedConfig
    projector_name: str
    stops_early: bool  # once nothing is masked

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.visual = self.tower(config.vision_config)
        self.model = Language(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        setattr(self, self.projector_name, Projector(config.hidden_size))
        self.post_init()

    def tower(self, config: PretrainedConfig) -> nn.Module:
        raise NotImplementedError

    def get_rope_index(self, input_ids: Tensor, image_grid_thw: Tensor) -> tuple[Tensor, None]:
        config = self.config
        merge = config.vision_config.spatial_merge_size
        return cell_positions(
            input_ids, image_grid_thw, merge, config.image_token_id, config.vision_start_token_id
        ), None

    def embedded(self, tokens: Tensor, pixels: Tensor, grid: Tensor) -> Tensor:
        """Rows `[1, S, D]` that the first layer takes in."""
        cells = getattr(self, self.projector_name)(self.visual(pixels, grid_thw=grid))
        is_cell = (tokens == self.config.image_token_id)[..., None]
        return self.model.embed_tokens(tokens).masked_scatter(is_cell, cells)


def filled(config: PretrainedConfig, vision: type[PretrainedConfig], given: dict | PretrainedConfig | None) -> None:
    """Sets a configuration's `vision_config`, which a file gives as a table."""
    config.vision_config = given if isinstance(given, vision) else vision(**(given or {}))
