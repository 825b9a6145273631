"""LaViDa (arXiv 2505.16839; `model_type` llava_llada, architecture LlavaLladaForMaskedDiffusion), by the authors'
package.

With prefix attention, the default, image and prompt run once and the answer reads their keys and values. The official
layers cache these without rotary positions and rotate them at every step. With joint attention there is one sequence.
"""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from dcam_fast.models.adapter import Hidden, rows_at
from dcam_fast.models.llava.adapter import LlavaAdapter, LlavaInputs, View
from dcam_fast.models.unmasking import shifted_schedule

Attention = Literal["prefix", "joint"]
MASK_TOKEN: Final = 126336


class LavidaAdapter(LlavaAdapter):
    """Answers of 64 tokens in 32 steps of the shifted schedule, as in the official example.

    Without a temperature nothing is sampled, so the same question has the same answer.
    """

    family = "lavida"
    topologies = get_args(Attention)
    architecture = "LlavaLladaForMaskedDiffusion"
    source = "https://github.com/jacklishufan/LaViDa"
    requirements = ("accelerate", "deepspeed", "einops", "requests")
    end_tokens = ("<|endoftext|>", "<|eot_id|>")

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
            model: a `LlavaLladaForMaskedDiffusion`.
            tokenizer: the checkpoint's, with its chat template.
            name: shown in results.
            attention: topology of the generation and of its replay.
            view: the default view.
            mask_token: id of the mask token.
            answer_length: tokens in an answer.

        Raises:
            AdapterError: for another attention or view, or a model without a vision tower.
        """
        self.check_options(attention, answer_length)
        self.attention = attention
        self.has_two_streams = attention == "prefix"
        self.core = model.get_model()
        self.embedding = self.core.transformer.wte
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

    def num_to_unmask(self, tokens: int, steps: int) -> tuple[int, ...]:
        return shifted_schedule(tokens, steps)

    def embed(self, inputs: LlavaInputs, canvases: Tensor) -> Hidden:
        canvas = self.embedding(canvases)
        if self.has_two_streams:
            return Hidden(inputs.embedded, canvas)
        return Hidden(torch.cat((inputs.embedded.expand(len(canvas), -1, -1), canvas), 1))

    def layer(self, index: int, hidden: Hidden, inputs: LlavaInputs) -> Hidden:
        if hidden.canvas is None:
            return Hidden(self.layers[index](hidden.image)[0])
        return super().layer(index, hidden, inputs)

    def prefix_layer(self, index: int, image: Tensor, inputs: LlavaInputs) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        output, context = self.layers[index](image, use_cache=True)
        return image if index == self.num_layers - 1 else output, context

    def canvas_layer(self, index: int, canvas: Tensor, context: tuple[Tensor, Tensor], inputs: LlavaInputs) -> Tensor:
        keys, values = (part.expand(len(canvas), -1, -1, -1) for part in context)
        output: Tensor = self.layers[index](canvas, layer_past=(keys, values))[0]
        return output

    def logits(self, hidden: Hidden, rows: Tensor, inputs: LlavaInputs) -> Tensor:
        transformer, config = self.core.transformer, self.core.config
        normed = transformer.ln_f(rows_at(hidden.answer(self.answer_length), rows))
        logits = F.linear(normed, transformer.wte.weight) if config.weight_tying else transformer.ff_out(normed)
        if config.scale_logits:
            logits = logits / config.d_model**0.5
        return logits.float()
