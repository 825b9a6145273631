"""Dream's language model as the stubs have it: a Qwen2 whose every row sees every other, with rotary positions by
time, row and column. The modules are called what the authors' are called, and are called the way theirs are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Norm(nn.Module):
    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon)


class Rotary(nn.Module):
    """Cosines and sines `[3, 1, S, d]` of positions `[3, 1, S]`."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.width = config.hidden_size // config.num_attention_heads
        self.theta = config.rope_theta

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        rates = self.theta ** -(torch.arange(0, self.width, 2, device=x.device) / self.width)
        angles = (positions[..., None] * rates).repeat(1, 1, 1, 2)
        return angles.cos().to(x), angles.sin().to(x)


def turned(x: Tensor, cos: Tensor, sin: Tensor, sections: list[int]) -> Tensor:
    """`[C, heads, S, d]`, every pair of channels turned by the position on the axis that its section belongs to."""
    axis = torch.repeat_interleave(torch.arange(3), torch.tensor(sections)).repeat(2)
    channel = torch.arange(len(axis))
    cos, sin = (part[axis, :, :, channel].permute(1, 2, 0)[:, None] for part in (cos, sin))
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class Attention(nn.Module):
    def __init__(self, config: Any, layer: int) -> None:
        super().__init__()
        width, self.heads, self.shared = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
        self.head = width // self.heads
        self.layer, self.sections = layer, config.mrope_section
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, self.shared * self.head)
        self.v_proj = nn.Linear(width, self.shared * self.head)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, mask: Tensor, cache: Any, rotary: tuple[Tensor, Tensor]) -> Tensor:
        many, rows, width = x.shape
        q = self.q_proj(x).view(many, rows, self.heads, self.head).transpose(1, 2)
        k = self.k_proj(x).view(many, rows, self.shared, self.head).transpose(1, 2)
        v = self.v_proj(x).view(many, rows, self.shared, self.head).transpose(1, 2)
        q, k = turned(q, *rotary, self.sections), turned(k, *rotary, self.sections)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        k, v = (part.repeat_interleave(self.heads // self.shared, 1) for part in (k, v))
        if mask.dtype != torch.bool or mask.shape[-2:] != (rows, k.shape[2]):
            raise ValueError(f"mask must be bool [{rows}, {k.shape[2]}], got {mask.dtype} {list(mask.shape)}")
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(out.transpose(1, 2).reshape(many, rows, width))


class Feed(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: Any, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = Feed(config)
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_value: Any = None,
        position_embeddings: Any = None,
    ) -> tuple[Tensor]:
        mixed = self.self_attn(self.input_layernorm(hidden_states), attention_mask, past_key_value, position_embeddings)
        hidden_states = hidden_states + mixed
        return (hidden_states + self.mlp(self.post_attention_layernorm(hidden_states)),)


class Language(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = Rotary(config)

    def forward(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor,
        cache_position: Tensor,
        past_key_values: Any = None,
        use_cache: bool = False,
    ) -> tuple[Tensor]:
        """The rows at `cache_position` of a sequence that `attention_mask`, bool `[1, S]`, is of."""
        both = attention_mask[:, None, cache_position, None] & attention_mask[:, None, None]
        rotary = self.rotary_emb(inputs_embeds, position_ids)
        hidden = inputs_embeds
        for layer in self.layers:
            hidden = layer(
                hidden,
                attention_mask=both,
                past_key_value=past_key_values if use_cache else None,
                position_embeddings=rotary,
            )[0]
        return (self.norm(hidden),)
