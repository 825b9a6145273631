"""LLaDA-V (arXiv 2505.16933; `model_type` llava_llada, architecture LlavaLLaDAModelLM), by the authors' package.

Prompt, image and answer are one sequence in which every token attends to every other. The optional dLLM-Cache of the
official code, an approximation, is not supported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor

from dcam_fast.models.adapter import Hidden, rows_at
from dcam_fast.models.llava.adapter import LlavaAdapter, LlavaInputs, View
from dcam_fast.models.pretrained import head_logits

Attention = Literal["joint"]
MASK_TOKEN: Final = 126336
NEVER_WRITTEN: Final = (126081, 126080, 126346, 126347)  # end and start of the text, start and end of a header


class LladavAdapter(LlavaAdapter):
    """Answers of 128 tokens in as many steps, as in the official example, which stop at the end of the turn.

    Without a temperature nothing is sampled, so the same question has the same answer.
    """

    family = "llada-v"
    topologies = get_args(Attention)
    architecture = "LlavaLLaDAModelLM"
    source = "https://github.com/ML-GSAI/LLaDA-V"
    requirements = ("einops", "requests")
    end_tokens = ("<|eot_id|>",)
    stops_at_end = True

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        attention: Attention = "joint",
        view: View = "grid",
        mask_token: int = MASK_TOKEN,
        never_written: tuple[int, ...] = NEVER_WRITTEN,
        answer_length: int = 128,
    ) -> None:
        """
        Args:
            model: a `LlavaLLaDAModelLM`.
            tokenizer: the checkpoint's, with its chat template.
            name: shown in results.
            attention: joint, the only topology.
            view: the default view.
            mask_token: id of the mask token.
            never_written: token ids that generation never writes, whatever their probability.
            answer_length: tokens in an answer.

        Raises:
            AdapterError: for another attention or view, or a model without a vision tower.
        """
        self.check_options(attention, answer_length)
        self.attention = attention
        self.core = model.get_model()
        self.embedding = self.core.embed_tokens
        self.never_written = torch.tensor(never_written, dtype=torch.int64)
        super().__init__(
            model,
            tokenizer,
            name=name,
            layers=self.core.layers,
            mask_token=mask_token,
            answer_length=answer_length,
            view=view,
        )

    def logits_fn(self, inputs: LlavaInputs) -> Callable[[Tensor], Tensor]:
        logits_of, never = super().logits_fn(inputs), self.never_written.to(self.device)
        return lambda canvas: logits_of(canvas).index_fill(1, never, -torch.inf)

    def embed(self, inputs: LlavaInputs, canvases: Tensor) -> Hidden:
        canvas = self.embedding(canvases)
        return Hidden(torch.cat((inputs.embedded.expand(len(canvas), -1, -1), canvas), 1))

    def layer(self, index: int, hidden: Hidden, inputs: LlavaInputs) -> Hidden:
        positions = torch.arange(hidden.image.shape[1], device=self.device)[None]
        return Hidden(self.layers[index](hidden.image, position_ids=positions)[0])

    def logits(self, hidden: Hidden, rows: Tensor, inputs: LlavaInputs) -> Tensor:
        logits: Tensor = self.model.lm_head(self.core.norm(rows_at(hidden.answer(self.answer_length), rows)))
        return logits.float()

    def image_logits(self, hidden: Hidden, cells: Tensor, tokens: Tensor, inputs: LlavaInputs) -> Tensor:
        output = self.layer(self.num_layers - 1, hidden, inputs).image[:, cells]
        return head_logits(self.model.lm_head, self.core.norm(output), tokens)
