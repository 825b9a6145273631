"""LLaDA-V's adapter against the authors' code: their classes with tiny random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from real_llava import compare, compare_loading, import_package

VOCABULARY = 126400
SIZES = [(480, 640), (900, 300), (800, 800), (300, 1200), (333, 517), (1200, 1600), (150, 1900), (2000, 640)]


def check(family: str, repo: Path) -> None:
    """Says what holds, and raises what does not."""
    import_package(family, repo / "train")
    from llava_subjects import LladavSubject

    def made(_attention: Any, folder: str) -> LladavSubject:
        return LladavSubject(_make(folder))

    compare(made, ("joint",), SIZES, ((3, 8), (2, 4)))
    compare_loading(_make, VOCABULARY, steps=2)


def _make(folder: str) -> Any:
    from llava.model.language_model.llava_llada import LlavaLLaDAConfig, LlavaLLaDAModelLM
    from llava_subjects import shake
    from real_llava import make_tower

    config = LlavaLLaDAConfig(
        vocab_size=VOCABULARY,  # their generation names tokens by number
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=8192,
        rope_theta=500000.0,
        use_cache=False,
        pad_token_id=None,
        mm_vision_tower=make_tower(folder),
        mm_projector_type="mlp2x_gelu",
        mm_hidden_size=16,
        mm_patch_merge_type="spatial_unpad",
        use_mm_proj=True,
        image_aspect_ratio="anyres_max_4",
        image_grid_pinpoints="(1x1),...,(6x6)",
    )
    model = LlavaLLaDAModelLM(config)
    shake(model)
    return model
