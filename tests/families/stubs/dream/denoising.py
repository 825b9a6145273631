"""The generation that the stubs share: an answer of masks, written into step by step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical
from torch.nn import functional as F
from transformers import DynamicCache


class Denoising:
    def confidences(self, logits: Tensor, weights: Tensor) -> Tensor:
        """How sure `[n, V]` the model is of all guesses, which are made by `weights`."""
        raise NotImplementedError

    def chosen(
        self, confidence: Tensor, num_masked: int, step: int, times: Tensor, length: int, threshold: float | None
    ) -> Tensor:
        """Which of the `num_masked` masked positions are written, given how sure the model is of the guess for each."""
        raise NotImplementedError

    @torch.no_grad()
    def diffusion_generate(
        self,
        inputs: Tensor,
        *,
        attention_mask: Tensor,
        pixel_values: Tensor,
        image_grid_thw: Tensor,
        max_new_tokens: int,
        steps: int,
        temperature: float,
        use_cache: bool,
        generation_logits_hook_func: Any,
        alg_p_threshold: float | None = None,
        **_as_theirs: Any,
    ) -> SimpleNamespace:
        """Tokens `[1, S]` of prompt and answer, and all of them after every step. With `use_cache` the prompt but
        its last token runs once, before an answer that is all masks."""
        prompt, mask = inputs.shape[1], self.config.mask_token_id
        tokens = F.pad(inputs, (0, max_new_tokens), value=mask)
        attended = F.pad(attention_mask, (0, max_new_tokens), value=True)
        positions, _ = self.get_rope_index(tokens, image_grid_thw)
        times = torch.linspace(1, 1e-3, steps + 1)
        cache, start, history = DynamicCache() if use_cache else None, 0, []
        for step in range(steps):
            answer = tokens[0, prompt:]  # a view
            masked = (answer == mask).nonzero()[:, 0]
            if self.stops_early and not len(masked):
                break
            embedded = self.embedded(tokens, pixel_values, image_grid_thw)
            hidden = self.model(
                inputs_embeds=embedded[:, start:],
                position_ids=positions[..., start:],
                attention_mask=attended,
                cache_position=torch.arange(start, tokens.shape[1]),
                past_key_values=cache,
                use_cache=use_cache,
            )[0]
            if use_cache:
                start = prompt - 1
                cache.crop(-len(answer) - 1)
            logits = self.lm_head(hidden)[:, -max_new_tokens - 1 : -1]  # shifted by one row
            logits = generation_logits_hook_func(step, tokens, logits)
            logits = logits[0, masked]
            ordered, order = (logits / temperature if temperature else logits).softmax(-1).sort(descending=True)
            ordered[:, self.config.top_k :] = 0
            kept = ordered.cumsum(-1) - ordered <= self.config.top_p
            weights = torch.zeros_like(logits).scatter(-1, order, ordered * kept)
            weights = weights / weights.sum(-1, keepdim=True)
            guess = Categorical(probs=weights).sample() if temperature and len(masked) else weights.argmax(-1)
            confidence = self.confidences(logits, weights).gather(1, guess[:, None])[:, 0]
            chosen = self.chosen(confidence, len(masked), step, times, max_new_tokens, alg_p_threshold)
            answer[masked[chosen]] = guess[chosen]
            history.append(tokens.clone())
        return SimpleNamespace(sequences=tokens, history=history)
