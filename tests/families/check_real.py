"""The adapters' checks against a checkout of the authors' code, with tiny random weights.

    python tests/families/check_real.py --family lavida|dimple|dream-vl --repo PATH

It runs in whatever environment it is started in, which needs torch, Pillow, einops and a transformers of the range
that the family works with, and dcam_fast on PYTHONPATH. What the authors' package imports without needing it here
(deepspeed) is stood in for by an empty module.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import torch
import transformers

HERE = Path(__file__).parent
CANVASES = [[384, 768], [768, 384], [768, 768], [1152, 384], [384, 1152]]
SIZES = [(480, 640), (900, 300), (800, 800), (300, 1200), (333, 517)]
DREAM = ("dimple", "dream-vl")
RANGE = ((4, 50), (4, 58))


def stand_in(name: str, **attributes: Any) -> None:
    if importlib.util.find_spec(name) is None:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(attributes)
        sys.modules[name] = module


def make_lavida(folder: str) -> Any:
    """A LaViDa of a few thousand weights, by the authors' classes."""
    stand_in("deepspeed", checkpointing=types.SimpleNamespace(checkpoint=lambda run, *args: run(*args)))
    from llava.model.language_model.llava_llada import LlavaLladaConfig, LlavaLladaForMaskedDiffusion
    from llava.model.multimodal_encoder.siglip_encoder import SigLipVisionConfig, SigLipVisionModel
    from subjects import MASK, VOCABULARY, shake

    tower = f"{folder}/siglip-tiny"
    vision = SigLipVisionConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    SigLipVisionModel(vision).save_pretrained(tower)
    config = LlavaLladaConfig(
        d_model=32,
        n_heads=4,
        n_layers=4,
        mlp_hidden_size=48,
        vocab_size=len(VOCABULARY),
        embedding_size=len(VOCABULARY),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=["lavida", *DREAM], required=True)
    parser.add_argument("--repo", type=Path, required=True, help="a checkout of the authors' repository")
    options = parser.parse_args()
    if options.family in DREAM:
        sys.path.insert(0, str(HERE))
        from real_dream import check

        print(f"{options.family}: torch {torch.__version__}, transformers {transformers.__version__}")
        check(options.family, options.repo)
        return
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if not RANGE[0] <= version < RANGE[1]:
        parser.error(f"transformers must be 4.50 to 4.57 for {options.family}, got {transformers.__version__}")
    if not (options.repo / "llava").is_dir():
        parser.error(f"--repo must be a folder that holds the package llava, got {options.repo}")
    sys.path[:0] = [str(HERE), str(options.repo)]
    commit = subprocess.run(["git", "-C", options.repo, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    print(f"{options.family} {commit.strip()}: torch {torch.__version__}, transformers {transformers.__version__}")

    with tempfile.TemporaryDirectory() as folder:
        model = make_lavida(folder)
    import checks
    from subjects import LavidaSubject

    from dcam_fast.testing import check_adapter

    for attention in ("prefix", "joint"):
        subject = LavidaSubject(model, attention)
        for steps, block_length in ((4, 8), (8, 8), (3, 8), (4, 4), (8, 2)):
            worst = checks.check_generation(subject, checks.picture(480, 640), steps, block_length)
            said = f"{attention}, {steps} steps, blocks of {block_length}"
            print(f"{said}: same tokens and steps, logits within {worst:.1e}")
        worst = checks.check_gradients(subject, checks.picture(480, 640), (0, 3, 7))
        print(f"{attention}: gradients of the split run within {worst:.1e} of the full graph")
    for h, w in SIZES:
        shapes = [tuple(view.cells.shape) for view in subject.adapter.encode(checks.picture(h, w), "what").views]
        print(f"{w} x {h}: cells {shapes}, {checks.check_painting(subject, h, w)} painted cells found")
    for attention in ("prefix", "joint"):
        check_adapter(LavidaSubject(model, attention).adapter, checks.picture(300, 200), "what is this")
        print(f"{attention}: check_adapter finds nothing")


if __name__ == "__main__":
    main()
