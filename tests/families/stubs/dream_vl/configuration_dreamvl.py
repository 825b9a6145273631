from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from .model import filled


class DreamVLVisionConfig(PretrainedConfig):
    model_type = "dream_vl"

    def __init__(
        self,
        depth: int = 32,
        embed_dim: int = 1280,
        hidden_size: int = 3584,
        num_heads: int = 16,
        patch_size: int = 14,
        spatial_merge_size: int = 2,
        temporal_patch_size: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.depth, self.embed_dim, self.hidden_size, self.num_heads = depth, embed_dim, hidden_size, num_heads
        self.patch_size = patch_size
        self.spatial_merge_size, self.temporal_patch_size = spatial_merge_size, temporal_patch_size


class DreamVLConfig(PretrainedConfig):
    model_type = "dream-vl"
    top_k: int = 50  # these two a configuration had by itself in the releases that the authors' code runs with
    top_p: float = 1.0

    def __init__(
        self,
        vision_config: Any = None,
        top_k: int = 50,
        top_p: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(**{"rms_norm_eps": 1e-6, "tie_word_embeddings": False, **options})
        self.top_k, self.top_p = top_k, top_p
        filled(self, DreamVLVisionConfig, vision_config)
