"""A DiffusionGemma of a few thousand random weights, its tokenizer and its image processor, made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.models.diffusion_gemma import (
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    DiffusionGemmaTextConfig,
)
from transformers.models.gemma4 import Gemma4VisionConfig
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

from dcam_fast.models.diffusion_gemma.adapter import DiffusionGemmaAdapter, DiffusionGemmaInputs
from dcam_fast.models.diffusion_gemma.generation import DiffusionGemmaTrajectory
from dcam_fast.models.generation import Generation

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<boi>", "<image>", "<eoi>")
WORDS = ("what", "is", "this", "describe", "the", "image", ".", "user", "model")
VOCABULARY = (*SPECIAL, *WORDS, *(f"▁w{number}" if number % 3 else f"x{number}" for number in range(48)))
TEMPLATE = (
    "{% for m in messages %}<bos> user {% for c in m.content %}"
    "{% if c.type == 'image' %}<image> {% else %}{{ c.text }} {% endif %}{% endfor %}{% endfor %}model"
)
CANVAS = 12


def make_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        additional_special_tokens=["<boi>", "<image>", "<eoi>"],
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_config(window: int = 64, layers: int = 4) -> DiffusionGemmaConfig:
    text = DiffusionGemmaTextConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        global_head_dim=16,
        num_global_key_value_heads=1,
        sliding_window=window,
        layer_types=["sliding_attention", "full_attention"] * (layers // 2),
        use_bidirectional_attention="vision",
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=16,
        max_position_embeddings=512,
    )
    vision = Gemma4VisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        position_embedding_size=256,
    )
    return DiffusionGemmaConfig(
        text_config=text,
        vision_config=vision,
        boi_token_id=VOCABULARY.index("<boi>"),
        image_token_id=VOCABULARY.index("<image>"),
        eoi_token_id=VOCABULARY.index("<eoi>"),
        canvas_length=CANVAS,
    )


def make_model(window: int = 64) -> DiffusionGemmaForBlockDiffusion:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = DiffusionGemmaForBlockDiffusion(make_config(window))
        for parameter in model.parameters():
            if parameter.ndim > 1:  # as large as trained weights are, so that layers have an effect
                torch.nn.init.normal_(parameter, std=0.6 / parameter.shape[-1] ** 0.5)
    model.tie_weights()
    return model


def make_processor() -> Gemma4ImageProcessorPil:
    return Gemma4ImageProcessorPil(max_soft_tokens=70)


def make_adapter(window: int = 64) -> DiffusionGemmaAdapter:
    return DiffusionGemmaAdapter(make_model(window), make_tokenizer(), make_processor(), name="tiny-gemma")


def save(path: Path, max_shard_size: str = "1GB") -> None:
    make_model().save_pretrained(path, max_shard_size=max_shard_size)
    make_tokenizer().save_pretrained(path)
    make_processor().save_pretrained(path)


def generated(
    adapter: DiffusionGemmaAdapter, inputs: DiffusionGemmaInputs, generation: Generation
) -> tuple[DiffusionGemmaTrajectory, list[dict[str, Any]], list[Tensor]]:
    """An answer, and what transformers' own forward got and gave at every step of its generation."""
    recorded: list[dict[str, Any]] = []
    logits: list[Tensor] = []
    forward = adapter.model.forward

    def spy(**kwargs: Any) -> Any:
        out = forward(**kwargs)
        recorded.append(kwargs)
        logits.append(out.logits)
        return out

    adapter.model.forward = spy
    try:
        trajectory = adapter.generate(inputs, generation)
    finally:
        del adapter.model.forward
    assert isinstance(trajectory, DiffusionGemmaTrajectory)
    return trajectory, recorded, logits


def replayed(adapter: DiffusionGemmaAdapter, inputs: DiffusionGemmaInputs, canvas: Tensor) -> Tensor:
    """Logits `[C, L, V]` of the adapter's layers at canvases `[C, K]`."""
    hidden = adapter.embed(inputs, canvas)
    for index in range(adapter.num_layers):
        hidden = adapter.layer(index, hidden, inputs)
    rows = torch.arange(CANVAS).expand(len(canvas), -1)
    return adapter.logits(hidden, rows, inputs)
