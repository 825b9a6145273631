"""Stub of LLaDA-V: one sequence in which all see all, its masks known by their embedding, and an answer that ends
with the turn."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from llava_parts import Multimodal, add_image_parts, likeliest, rotate
from torch import nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel

MASK = 126336
NEVER = [126081, 126080, 126346, 126347]


class LlavaLLaDAConfig(PretrainedConfig):
    model_type = "llava_llada"

    def __init__(self, hidden_size=16, num_attention_heads=2, num_hidden_layers=4, vocab_size=126400, **others):
        self.hidden_size, self.num_attention_heads = hidden_size, num_attention_heads
        self.num_hidden_layers, self.vocab_size = num_hidden_layers, vocab_size
        super().__init__(**others)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x, position_ids):
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        first = int(position_ids[0, 0])
        attended = F.scaled_dot_product_attention(rotate(q, first), rotate(k, first), v)
        return self.o_proj(attended.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, config: LlavaLLaDAConfig) -> None:
        super().__init__()
        d = config.hidden_size
        self.self_attn = Attention(d, config.num_attention_heads)
        self.mlp = nn.Sequential(nn.Linear(d, 2 * d), nn.SiLU(), nn.Linear(2 * d, d))
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(d), nn.RMSNorm(d)

    def forward(self, hidden_states, position_ids=None):
        x = hidden_states + self.self_attn(self.input_layernorm(hidden_states), position_ids)
        return (x + self.mlp(self.post_attention_layernorm(x)),)


class Core(nn.Module):
    def __init__(self, config: LlavaLLaDAConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size)
        add_image_parts(self, config.hidden_size)

    def forward(self, inputs_embeds, output_hidden_states=False):
        x, states = inputs_embeds, [inputs_embeds]
        positions = torch.arange(x.shape[1])[None]
        for layer in self.layers:
            x = layer(x, position_ids=positions)[0]
            states.append(x)
        return Output(self.norm(x), hidden_states=states)


class Output(SimpleNamespace):
    def __init__(self, last, **others) -> None:
        super().__init__(last=last, **others)

    def __getitem__(self, index):
        return (self.last,)[index]


class LlavaLLaDAModelLM(PreTrainedModel, Multimodal):
    config_class = LlavaLLaDAConfig

    def __init__(self, config: LlavaLLaDAConfig) -> None:
        super().__init__(config)
        self.model = Core(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Torch's own."""

    def get_model(self) -> Core:
        return self.model

    def words(self) -> nn.Embedding:
        return self.model.embed_tokens

    @torch.no_grad()
    def generate(
        self, ids, images, image_sizes, gen_length, block_length, steps, temperature, tokenizer, stopping_criteria
    ):
        prompt = self.prepare_inputs_labels_for_multimodal(ids, None, None, None, None, images, image_sizes=image_sizes)
        prompt, ends = prompt[4][0], tokenizer.convert_tokens_to_ids(stopping_criteria)
        mask, before, stop = self.words().weight[MASK], len(prompt), gen_length
        answer, tokens = mask.repeat(gen_length, 1), torch.full((gen_length,), MASK)
        rounds = steps // (gen_length // block_length)
        for start in range(0, gen_length, block_length):
            if start >= stop:
                break
            for i in range(rounds):
                masked = (answer - mask).abs().amax(1) < 1e-5
                if not masked[start : start + block_length].any() or not masked[:stop].any():
                    break
                hidden = self.model(torch.cat((prompt, answer))[None])[0]
                logits = self.lm_head(hidden[:, before:])[0]
                logits[:, NEVER] = -torch.inf
                count = block_length // rounds + (i < block_length % rounds)
                end = min(stop, start + block_length)
                guess, chosen = likeliest(logits, masked, end, count, before, temperature)
                tokens[chosen], answer[chosen] = guess[chosen], self.words()(guess[chosen])
                found = [i for i, token in enumerate(tokens.tolist()) if token in ends]
                stop = found[0] if found else gen_length
        return tokens[None, :stop]
