"""What the adapters of pretrained models share: tokenizer, layers, and generation from a masked answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from dcam_fast.models.adapter import Adapter, AdapterError, Hidden, InputsT, Trajectory, Word, default_layer
from dcam_fast.models.text import decode, words_of

ROWS: Final = 64  # of states whose logits of the whole vocabulary are in memory at once


def without_none(**options: Any) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def head_logits(head: nn.Module, states: Tensor, tokens: Tensor) -> Tensor:
    """Float32 logits `[..., N, K]` of the token ids `tokens`, int64 `[K]`, at states `[..., N, D]`.

    A plain head computes these columns only. Any other, such as a quantized one or LoRA's, computes all of them, for a
    few rows at a time.
    """
    if type(head) is nn.Linear:
        return nn.functional.linear(
            states, head.weight[tokens], None if head.bias is None else head.bias[tokens]
        ).float()
    return torch.cat([head(part)[..., tokens] for part in states.split(ROWS, -2)], -2).float()


class PretrainedAdapter(Adapter[InputsT]):
    """An adapter of a model and a tokenizer of transformers.

    Attributes:
        family: the name that error messages begin with.
        layers: the model's transformer layers.
    """

    family: str
    model: Any

    def __init__(self, model: Any, tokenizer: Any, *, name: str, layers: Any) -> None:
        """
        Args:
            model: in any mode; it is frozen only while it runs.
            tokenizer: the checkpoint's.
            name: shown in results.
            layers: the model's transformer layers, at least two.

        Raises:
            AdapterError: for a model with fewer layers.
        """
        if len(layers) < 2:
            raise AdapterError(f"{self.family}: model must have at least two layers, got {len(layers)}")
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.layers = layers
        self.device = next(model.parameters()).device
        self.num_layers = len(layers)
        self.default_layers = (default_layer(self.num_layers),)

    def layer_module(self, index: int) -> nn.Module:
        return cast(nn.Module, self.layers[index])

    def words(self, trajectory: Trajectory) -> tuple[Word, ...]:
        return words_of(self.tokenizer, trajectory.tokens[: trajectory.length], self.mask_token)

    def decode(self, tokens: Tensor) -> str:
        return decode(self.tokenizer, tokens)

    def encode_answer(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


class MaskedAdapter(PretrainedAdapter[InputsT]):
    """An adapter of a model that unmasks an answer of fixed length.

    Attributes:
        topologies: supported attention topologies, the default first.
        answer_length: tokens in an answer.
    """

    topologies: tuple[str, ...]
    answer_length: int

    @classmethod
    def check_options(cls, attention: str | None = None, answer_length: int | None = None) -> None:
        """Checks options before a model is loaded. None stands for the default.

        Raises:
            AdapterError: for an attention that the family does not support, or an answer without tokens.
        """
        if attention is not None and attention not in cls.topologies:
            raise AdapterError(f"{cls.family}: attention must be {' or '.join(cls.topologies)}, got {attention!r}")
        if answer_length is not None and answer_length < 1:
            raise AdapterError(f"{cls.family}: answer_length must be at least 1, got {answer_length}")

    def masked_answer(self) -> Tensor:
        """A canvas with a mask at every position, int64 `[L]`."""
        return torch.full((self.answer_length,), self.mask_token, device=self.device)

    @torch.no_grad()
    def logits_fn(self, inputs: InputsT) -> Callable[[Tensor], Tensor]:
        """A function from a canvas, int64 `[L]`, to the logits of all its positions, float32 `[L, V]`, as generation
        uses them. With two streams, the prefix runs once for all canvases."""
        rows = torch.arange(self.answer_length, device=self.device)[None]
        contexts = []
        if self.has_two_streams:
            image = self.embed(inputs, self.masked_answer()[None]).image
            for index in range(self.num_layers):
                image, context = self.prefix_layer(index, image, inputs)
                contexts.append(context)

        def logits_of(canvas: Tensor) -> Tensor:
            hidden = self.embed(inputs, canvas[None])
            for index in range(self.num_layers):
                if hidden.canvas is None:
                    hidden = self.layer(index, hidden, inputs)
                else:
                    stream = self.canvas_layer(index, hidden.canvas, contexts[index], inputs)
                    hidden = Hidden(hidden.image, stream)
            return self.logits(hidden, rows, inputs)[0]

        return logits_of
