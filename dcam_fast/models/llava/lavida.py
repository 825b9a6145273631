"""LaViDa-LLaDA (``model_type`` llava_llada, architecture LlavaLladaForMaskedDiffusion), by the authors' package.

With prefix attention, the default, image and prompt run once and the answer reads their keys and values, which the
authors' blocks keep without their rotary positions and place again every time. With joint attention all is one
sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from dcam_fast.models.adapter import AdapterError, Hidden
from dcam_fast.models.llava.adapter import LlavaAdapter, LlavaInputs, View
from dcam_fast.models.unmasking import shifted

Attention = Literal["prefix", "joint"]
MASK_TOKEN: Final = 126336


class LavidaAdapter(LlavaAdapter):
    """Answers of 64 tokens in half as many steps of the shifted schedule, as the authors' example asks for; always the
    model's best guess, so the same question has the same answer."""

    family = "lavida"
    architecture = "LlavaLladaForMaskedDiffusion"
    source = "https://github.com/jacklishufan/LaViDa"
    needed = ("accelerate", "deepspeed", "einops", "requests")
    ends = ("<|endoftext|>", "<|eot_id|>")

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        attention: Attention = "prefix",
        view: View = "grid",
        mask_token: int = MASK_TOKEN,
        answer_length: int = 64,
    ) -> None:
        """
        Args:
            model: a ``LlavaLladaForMaskedDiffusion``; it is frozen.
            tokenizer: the checkpoint's, with its chat template.
            name: shown in results.
            attention: of the generation, and so of its replay.
            view: the grid that is explained.
            mask_token: what stands where nothing is written yet.
            answer_length: tokens in an answer.
        """
        if attention not in get_args(Attention):
            raise AdapterError(f"lavida: attention must be one of {', '.join(get_args(Attention))}, got {attention!r}")
        self.attention = attention
        self.has_two_streams = attention == "prefix"
        self.core = model.get_model()
        super().__init__(
            model,
            tokenizer,
            name=name,
            layers=self.core.transformer.blocks,
            mask_token=mask_token,
            answer_length=answer_length,
            view=view,
        )

    @property
    def default_steps(self) -> int:
        return self.answer_length // 2

    def schedule(self, tokens: int, steps: int) -> tuple[int, ...]:
        return shifted(tokens, steps)

    @torch.no_grad()
    def reader(self, inputs: LlavaInputs) -> Callable[[Tensor], Tensor]:
        if not self.has_two_streams:
            return super().reader(inputs)
        image, contexts = inputs.embedded, []
        for index in range(self.num_layers):
            image, context = self.prefix_layer(index, image, inputs)
            contexts.append(context)
        rows = torch.arange(self.answer_length, device=self.device)[None]

        def read(canvas: Tensor) -> Tensor:
            stream = self.core.transformer.wte(canvas[None])
            for index, context in enumerate(contexts):
                stream = self.canvas_layer(index, stream, context, inputs)
            return self.logits(Hidden(image, stream), rows, inputs)[0]

        return read

    def embed(self, inputs: LlavaInputs, canvases: Tensor) -> Hidden:
        canvas = self.core.transformer.wte(canvases)
        if self.has_two_streams:
            return Hidden(inputs.embedded, canvas)
        return Hidden(torch.cat((inputs.embedded.expand(len(canvas), -1, -1), canvas), 1))

    def layer(self, index: int, hidden: Hidden, inputs: LlavaInputs) -> Hidden:
        if hidden.canvas is None:
            return Hidden(self.layers[index](hidden.image)[0])
        image, context = self.prefix_layer(index, hidden.image, inputs)
        return Hidden(image, self.canvas_layer(index, hidden.canvas, context, inputs))

    def prefix_layer(self, index: int, image: Tensor, inputs: LlavaInputs) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        behind, context = self.layers[index](image, use_cache=True)
        return image if index == self.num_layers - 1 else behind, context

    def canvas_layer(self, index: int, canvas: Tensor, context: tuple[Tensor, Tensor], inputs: LlavaInputs) -> Tensor:
        keys, values = (part.expand(len(canvas), -1, -1, -1) for part in context)
        behind: Tensor = self.layers[index](canvas, layer_past=(keys, values))[0]
        return behind

    def logits(self, hidden: Hidden, rows: Tensor, inputs: LlavaInputs) -> Tensor:
        transformer, config = self.core.transformer, self.core.config
        normed = transformer.ln_f(self.answer_rows(hidden, rows))
        logits = F.linear(normed, transformer.wte.weight) if config.weight_tying else transformer.ff_out(normed)
        if config.scale_logits:
            logits = logits / config.d_model**0.5
        return logits.float()
