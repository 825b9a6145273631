"""A Dimple or a Dream-VL under test, the real one or a stub, behind one interface: the adapter's answers, and those of
the model's own code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from checks import PROMPT, Generated
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DynamicCache

from dcam_fast.models.dream.adapter import DreamAdapter, DreamInputs
from dcam_fast.models.dream.dimple import DimpleAdapter
from dcam_fast.models.generation import Generation

LENGTH = 8
MASK = "<|mask|>"
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    MASK,
)
# Dream-VL's has no marks around the image, and so its image has the positions of a text.
TEMPLATE = {
    family: "{% for m in messages %}<|im_start|>{{ m.role }} {% for c in m.content %}"
    "{% if c.type == 'image' %}" + image + "{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
    for family, image in (("dimple", "<|vision_start|><|image_pad|><|vision_end|>"), ("dream-vl", "<|image_pad|>"))
}


def shake(model: nn.Module, seed: int = 3) -> None:
    """Random weights as large as trained ones are, so that layers have an effect."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.8 / parameter[0].numel() ** 0.5)
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight)


class DreamSubject:
    """A model with its adapter. `adapter` says whether it is a Dimple or a Dream-VL."""

    def __init__(self, adapter: DreamAdapter) -> None:
        self.adapter = adapter

    def generate(self, image: NDArray[np.uint8], generation: Generation) -> Generated:
        """By the model's own code."""
        adapter, logits = self.adapter, []
        options: dict[str, Any] = {"alg": "maskgit_plus"}
        if isinstance(adapter, DimpleAdapter):
            options |= {"decoding_pipeline": "dim", "alg_p_threshold": adapter.threshold}
        processed = adapter._process(image, PROMPT)
        tokens = processed.pop("input_ids")
        mask = processed.pop("attention_mask").bool()  # which Dream-VL's attention needs where there is no GPU

        def keep(_step: int, _tokens: Tensor, shifted: Tensor) -> Tensor:
            logits.append(shifted[0, -adapter.answer_length :].clone())
            return shifted

        out = adapter.model.diffusion_generate(
            tokens,
            attention_mask=mask,
            max_new_tokens=adapter.answer_length,
            steps=generation.steps,
            temperature=generation.temperature or 0.0,
            use_cache=adapter.has_two_streams,
            output_history=True,
            return_dict_in_generate=True,
            generation_logits_hook_func=keep,
            **options,
            **processed,
        )
        count = tokens.shape[1]
        return Generated(out.sequences[0, count:], [canvas[0, count:] for canvas in out.history], logits)

    def threshold(self, image: NDArray[np.uint8]) -> float:
        """A probability that some of the first guesses are clearly above and others clearly below, however unsure a
        model of random weights is: the middle of the widest gap between them."""
        masked = torch.full((self.adapter.answer_length,), self.adapter.mask_token)
        logits = self.adapter.logits_fn(self.adapter.encode(image, PROMPT))(masked)
        probabilities = logits.softmax(-1).amax(-1).sort().values
        widest = int(probabilities.diff().argmax())
        return float(probabilities[widest : widest + 2].mean())

    def full(self, inputs: DreamInputs, canvas: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits `[L, V]` by the model's own forward, and the image stream after every layer, with a graph."""
        adapter, states = self.adapter, {}
        model = adapter.model
        processed = adapter._process(inputs.image, inputs.prompt)
        start = processed["input_ids"].shape[1] - 1
        masked = torch.full((1, adapter.answer_length), adapter.mask_token)
        tokens = torch.cat((processed["input_ids"], masked if adapter.has_two_streams else canvas[None]), 1)
        positions, _ = model.get_rope_index(tokens, image_grid_thw=processed["image_grid_thw"])
        answers = model.model.embed_tokens(tokens[:, start + 1 :])

        def keeping(index: int) -> Callable[..., None]:
            def hook(_module: Any, _args: Any, out: Any) -> None:
                if index not in states:  # the whole sequence comes by first
                    states[index] = out[0].requires_grad_()

            return hook

        hooks = [layer.register_forward_hook(keeping(index)) for index, layer in enumerate(model.model.layers)]
        options = {"attention_mask": torch.ones_like(tokens, dtype=torch.bool), "use_cache": adapter.has_two_streams}
        try:
            with torch.enable_grad():
                cache = DynamicCache() if adapter.has_two_streams else None
                hidden = model.model(
                    inputs_embeds=torch.cat((inputs.embedded, answers), 1),
                    position_ids=positions,
                    past_key_values=cache,
                    cache_position=torch.arange(tokens.shape[1]),
                    **options,
                )[0][:, start:]
                if cache is not None:
                    cache.crop(start - tokens.shape[1])
                    answers = model.model.embed_tokens(canvas[None])
                    hidden = model.model(
                        inputs_embeds=torch.cat((inputs.embedded[:, -1:], answers), 1),
                        position_ids=positions[:, :, start:],
                        past_key_values=cache,
                        cache_position=torch.arange(start, tokens.shape[1]),
                        **options,
                    )[0]
                logits = model.lm_head(hidden)[0, :-1]
        finally:
            for hook in hooks:
                hook.remove()
        return logits, [states[index] for index in sorted(states)]
