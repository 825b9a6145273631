"""Stub of LaViDa: LLaDA's layers, whose cache holds keys without their positions, around which a prompt's cache or
the whole sequence goes; tokens written by the shifted schedule."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import torch
from llava_parts import Multimodal, add_image_parts, likeliest, rotate
from torch import nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel


class LlavaLladaConfig(PretrainedConfig):
    model_type = "llava_llada"

    def __init__(self, d_model=32, n_heads=4, n_layers=4, vocab_size=64, weight_tying=False, **others):
        self.d_model, self.n_heads, self.n_layers, self.vocab_size = d_model, n_heads, n_layers, vocab_size
        self.weight_tying, self.scale_logits = weight_tying, others.pop("scale_logits", False)
        super().__init__(**others)


class Block(nn.Module):
    def __init__(self, config: LlavaLladaConfig) -> None:
        super().__init__()
        d = config.d_model
        self.heads = config.n_heads
        self.attn_norm, self.ff_norm = nn.RMSNorm(d), nn.RMSNorm(d)
        self.q_proj, self.k_proj, self.v_proj, self.attn_out = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.ff_proj, self.up_proj = (nn.Linear(d, 2 * d, bias=False) for _ in range(2))
        self.ff_out = nn.Linear(2 * d, d, bias=False)

    def forward(self, x, attention_bias=None, layer_past=None, use_cache=False):
        normed = self.attn_norm(x)
        q, k, v = (
            part(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        if layer_past is not None:
            k, v = torch.cat((layer_past[0], k), 2), torch.cat((layer_past[1], v), 2)
        cache = (k, v) if use_cache else None
        attended = F.scaled_dot_product_attention(rotate(q, k.shape[2] - q.shape[2]), rotate(k), v)
        x = x + self.attn_out(attended.transpose(1, 2).flatten(2))
        normed = self.ff_norm(x)
        return x + self.ff_out(F.silu(self.ff_proj(normed)) * self.up_proj(normed)), cache


class Core(nn.Module):
    def __init__(self, config: LlavaLladaConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.d_model),
                "blocks": nn.ModuleList(Block(config) for _ in range(config.n_layers)),
                "ln_f": nn.RMSNorm(config.d_model),
                "ff_out": nn.Linear(config.d_model, config.vocab_size, bias=False),
            }
        )
        add_image_parts(self, config.d_model)

    def forward(self, _ids, input_embeddings=None, past_key_values=None, use_cache=False):
        x, caches = input_embeddings, []
        for index, block in enumerate(self.transformer.blocks):
            past = None if past_key_values is None else past_key_values[index]
            x, cache = block(x, layer_past=past, use_cache=use_cache)
            caches.append(cache)
        return SimpleNamespace(logits=self.transformer.ff_out(self.transformer.ln_f(x)), attn_key_values=caches)


class LlavaLladaForMaskedDiffusion(PreTrainedModel, Multimodal):
    config_class = LlavaLladaConfig
    pooled = True

    def __init__(self, config: LlavaLladaConfig) -> None:
        super().__init__(config)
        self.model = Core(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Torch's own."""

    def get_model(self) -> Core:
        return self.model

    def words(self) -> nn.Embedding:
        return self.model.transformer.wte

    @torch.no_grad()
    def generate(
        self,
        ids,
        images,
        image_sizes,
        max_new_tokens,
        block_length,
        step_ratio,
        temperature,
        prefix_lm,
        schedule,
        mask_id,
        verbose,
    ):
        prompt = self.prepare_inputs_labels_for_multimodal(ids, None, None, None, None, images, image_sizes=image_sizes)
        prompt = prompt[4]
        past = self.model(None, input_embeddings=prompt, use_cache=True).attn_key_values if prefix_lm else None
        before = 0 if prefix_lm else prompt.shape[1]
        canvas, history = torch.full((max_new_tokens,), mask_id), []
        counts = self.counts(block_length, int(block_length * step_ratio))
        for end in range(block_length, max_new_tokens + 1, block_length):
            for count in counts:
                masked = canvas == mask_id
                if not masked[end - block_length : end].any():
                    continue
                embedded = self.words()(canvas)[None]
                if not prefix_lm:
                    embedded = torch.cat((prompt, embedded), 1)
                logits = self.model(None, input_embeddings=embedded, past_key_values=past).logits[0, before:]
                guess, chosen = likeliest(logits, masked, end, count, before, temperature)
                canvas = canvas.clone()
                canvas[chosen] = guess[chosen]
                history.append(canvas[None])
        return canvas[None], history

    @staticmethod
    def counts(tokens: int, steps: int) -> list[int]:
        """By what is still masked at the end of every step, counted from the last one: at least one token a step, the
        excess taken off one by one, last steps first."""
        done = [int(3 * (i / steps) / (1 + 2 * (i / steps)) * tokens) for i in range(steps + 1)]
        late_first = [max(b - a, 1) for a, b in pairwise(done)]
        excess = sum(late_first) - tokens
        while excess > 0:
            for i in range(steps):
                if excess > 0 and late_first[i] > 1:
                    late_first[i] -= 1
                    excess -= 1
        return late_first[::-1]
