"""LaViDa's adapter against the authors' code: their classes with tiny random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from real_llava import compare, compare_loading, import_package

CANVASES = [[384, 768], [768, 384], [768, 768], [1152, 384], [384, 1152]]
LARGE = 126464  # the tokens of a real one, whose mask a checkpoint is loaded with
SIZES = [(480, 640), (900, 300), (800, 800), (300, 1200), (333, 517)]


def check(family: str, repo: Path) -> None:
    """Says what holds, and raises what does not."""
    import_package(family, repo)
    from llava_subjects import LavidaSubject

    def made(attention: Any, folder: str) -> LavidaSubject:
        return LavidaSubject(_make(folder), attention)

    compare(made, ("prefix", "joint"), SIZES, ((4, 8), (8, 8), (3, 8), (4, 4), (8, 2)))
    compare_loading(lambda folder: _make(folder, LARGE), LARGE, steps=8)


def _make(folder: str, vocabulary: int | None = None) -> Any:
    from llava.model.language_model.llava_llada import LlavaLladaConfig, LlavaLladaForMaskedDiffusion
    from llava_subjects import MASK, VOCABULARY, shake
    from real_llava import make_tower

    tower, size = make_tower(folder), vocabulary or len(VOCABULARY)
    config = LlavaLladaConfig(
        d_model=32,
        n_heads=4,
        n_layers=4,
        mlp_hidden_size=48,
        vocab_size=size,
        embedding_size=size,
        max_sequence_length=2048,
        rope=True,
        rope_full_precision=True,
        block_type="llama",
        layer_norm_type="rms",
        layer_norm_with_affine=True,
        bias_for_layer_norm=False,
        include_bias=False,
        include_qkv_bias=False,
        activation_type="silu",
        attention_dropout=0.0,
        residual_dropout=0.0,
        embedding_dropout=0.0,
        weight_tying=False,
        mask_token_id=MASK,
        eos_token_id=0,
        pad_token_id=0,
        mm_vision_tower=tower,
        mm_projector_type="mlp2x_gelu",
        mm_hidden_size=16,
        mm_patch_merge_type="spatial_unpad",
        mm_spatial_pool_mode="bilinear",
        use_mm_proj=True,
        image_aspect_ratio="anyres",
        image_grid_pinpoints=CANVASES,
    )
    model = LlavaLladaForMaskedDiffusion(config, init_params=True)
    shake(model)
    return model
