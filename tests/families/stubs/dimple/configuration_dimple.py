from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from .model import filled


class DimpleVisionConfig(PretrainedConfig):
    model_type = "dimple_vision"

    def __init__(
        self,
        depth: int = 32,
        hidden_size: int = 1280,
        num_heads: int = 16,
        out_hidden_size: int = 3584,
        patch_size: int = 14,
        spatial_merge_size: int = 2,
        temporal_patch_size: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.depth, self.hidden_size, self.num_heads = depth, hidden_size, num_heads
        self.out_hidden_size, self.patch_size = out_hidden_size, patch_size
        self.spatial_merge_size, self.temporal_patch_size = spatial_merge_size, temporal_patch_size


class DimpleConfig(PretrainedConfig):
    model_type = "dimple"
    top_k: int = 50  # these two a configuration had by itself in the releases that the authors' code runs with
    top_p: float = 1.0

    def __init__(
        self,
        vision_config: Any = None,
        full_attn_mask: bool = True,
        top_k: int = 50,
        top_p: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(**{"rms_norm_eps": 1e-6, "tie_word_embeddings": False, **options})
        self.full_attn_mask, self.top_k, self.top_p = full_attn_mask, top_k, top_p
        filled(self, DimpleVisionConfig, vision_config)
