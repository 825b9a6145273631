"""The embedded model's adapter: the smallest complete example of one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from dcam_fast.interruption import checked
from dcam_fast.models.adapter import (
    DEFAULT_GENERATION,
    Adapter,
    AdapterError,
    Hidden,
    ImageView,
    Inputs,
    Trajectory,
    Word,
    even_boxes,
    rows_at,
)
from dcam_fast.models.generation import Generation
from dcam_fast.models.given import AnswerFormat
from dcam_fast.models.text import check_prompt
from dcam_fast.models.tiny import WEIGHTS
from dcam_fast.models.tiny.layers import CELL, attend
from dcam_fast.models.tiny.modeling import Attention, Denoised, TinyForMaskedDiffusion
from dcam_fast.models.tiny.processing import EOS, MASK, PAD, SPECIAL, TOKENIZER, UNKNOWN, VOCABULARY, TinyImageProcessor
from dcam_fast.scenes import CAPTION_PROMPT

SMALL = 256  # hidden size up to which a second torch thread costs more time than it saves


@dataclass(frozen=True)
class TinyInputs(Inputs):
    """What the layers need.

    Attributes:
        embedded: `[1, N, D]`, the image's cells.
        prompt_tokens: int64 `[1, P]`.
        rotary_prefix: cosines and sines of the positions of image and prompt.
        rotary_canvas: the same of the answer.
        rotary_joint: the same of the whole sequence.
    """

    embedded: Tensor
    prompt_tokens: Tensor
    rotary_prefix: tuple[Tensor, Tensor]
    rotary_canvas: tuple[Tensor, Tensor]
    rotary_joint: tuple[Tensor, Tensor]


def load_adapter(
    path: Path,
    *,
    name: str,
    device: str,
    trust_remote_code: bool,
    dtype: torch.dtype | None,
    attention: Attention | None = None,
) -> TinyAdapter:
    """See `dcam_fast.models.load`. The folder is the output of `dcam-fast train-tiny`; it holds no code."""
    model = TinyForMaskedDiffusion.from_pretrained(path).to(device, dtype or torch.float32)
    return adapter_of(model, _read_tokenizer(path / TOKENIZER), name=name, attention=attention)


def adapter_of(model: Any, processor: Any = None, *, name: str, attention: Attention | None = None) -> TinyAdapter:
    """See `dcam_fast.models.adapter_of`. The processor is a tokenizer, by default the embedded one."""
    if not isinstance(model, TinyForMaskedDiffusion):
        raise AdapterError(f"tiny: model must be a TinyForMaskedDiffusion, got {type(model).__name__}")
    if not isinstance(processor, Tokenizer | None):
        raise AdapterError(f"tiny: processor must be a tokenizers.Tokenizer or None, got {type(processor).__name__}")
    return TinyAdapter(model, processor, name=name, attention="prefix" if attention is None else attention)


def _read_tokenizer(file: Path) -> Tokenizer:
    if not file.is_file():
        raise AdapterError(f"load: tokenizer must be in {file}, got none there")
    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise AdapterError(f"load: {file} must be a tokenizer that can be read, got {error}") from error
    return tokenizer


def _trajectory(state: Denoised, row: int) -> Trajectory:
    tokens = state.tokens[row]
    ends = (tokens == EOS).nonzero()
    return Trajectory(tokens, state.steps[row], int(ends[0]) if len(ends) else len(tokens))


class TinyAdapter(Adapter[TinyInputs]):
    """The embedded model with joint or prefix attention.

    Example:
        >>> adapter = TinyAdapter(attention="joint")
        >>> inputs = adapter.encode(np.zeros((64, 64, 3), np.uint8), adapter.default_prompt)
        >>> adapter.embed(inputs, adapter.generate(inputs, Generation(steps=1)).tokens[None])
        Hidden(image=float32[1, 300, 128], canvas=None)
    """

    default_layers = (2,)
    mask_token = MASK
    default_prompt = CAPTION_PROMPT

    model: TinyForMaskedDiffusion

    def __init__(
        self,
        model: TinyForMaskedDiffusion | None = None,
        tokenizer: Tokenizer | None = None,
        *,
        name: str = "tiny",
        attention: Attention = "prefix",
    ) -> None:
        """
        Args:
            model: the model (None: the embedded weights).
            tokenizer: the model's (None: the embedded one).
            name: shown in results.
            attention: topology of the generation and of its replay.

        Raises:
            AdapterError: for another attention.
        """
        if attention not in ("prefix", "joint"):
            raise AdapterError(f"tiny: attention must be 'prefix' or 'joint', got {attention!r}")
        self.name = name
        self.attention = attention
        self.has_two_streams = attention == "prefix"
        self.model = TinyForMaskedDiffusion.from_pretrained(WEIGHTS).float() if model is None else model
        self.tokenizer = _read_tokenizer(WEIGHTS / TOKENIZER) if tokenizer is None else tokenizer
        self.device, self.dtype = self.model.embed.weight.device, self.model.embed.weight.dtype
        self.processor = TinyImageProcessor()
        self.num_layers = self.model.config.num_hidden_layers
        self.small = self.model.config.hidden_size <= SMALL

    def _encode_prompt(self, prompt: str) -> Tensor:
        tokens = self.tokenizer.encode(prompt).ids
        length = self.model.config.prompt_length
        check_prompt("tiny", prompt, tokens, {token: VOCABULARY[token] for token in (PAD, MASK, EOS)})
        if UNKNOWN in tokens or not tokens:
            known = " ".join(VOCABULARY[len(SPECIAL) :])
            raise AdapterError(f"tiny: prompt must be made of the words it was trained on ({known}), got {prompt!r}")
        if len(tokens) > length:
            raise AdapterError(f"tiny: prompt must be at most {length} tokens, got {len(tokens)}")
        return torch.tensor([tokens + [PAD] * (length - len(tokens))], device=self.device)

    def encode(self, image: NDArray[np.uint8], prompt: str) -> TinyInputs:
        tokens = self._encode_prompt(prompt)
        pixels = self.processor(image).to(self.device, self.dtype)
        h, w = (side // CELL for side in pixels.shape[2:])
        cells = torch.arange(h * w, device=self.device).view(h, w)
        boxes = even_boxes(image.shape[:2], (h, w)).to(self.device)
        prefix = h * w + tokens.shape[1]
        cos, sin = self.model.rotary(
            torch.arange(prefix + self.model.config.answer_length, device=self.device), self.dtype
        )
        return TinyInputs(
            image=image,
            prompt=prompt,
            views=(ImageView("image", cells, boxes),),
            side=min(pixels.shape[2:]),
            embedded=self._embed_image(pixels),
            prompt_tokens=tokens,
            rotary_prefix=(cos[:prefix], sin[:prefix]),
            rotary_canvas=(cos[prefix:], sin[prefix:]),
            rotary_joint=(cos, sin),
        )

    @torch.no_grad()
    def _embed_image(self, pixels: Tensor) -> Tensor:
        return self.model.embed_image(pixels)

    def denoise(self, inputs: TinyInputs, generation: Generation = DEFAULT_GENERATION) -> Iterator[Trajectory]:
        for state in self.model.denoise(inputs.embedded, inputs.prompt_tokens, generation, self.attention):
            yield _trajectory(state, 0)

    def generate_many(
        self, inputs: Sequence[TinyInputs], generation: Generation = DEFAULT_GENERATION
    ) -> list[Trajectory]:
        if generation.temperature:  # each answer draws from the seed
            return super().generate_many(inputs, generation)
        together: dict[torch.Size, list[int]] = {}  # images of one size
        for index, item in enumerate(inputs):
            together.setdefault(item.embedded.shape, []).append(index)
        found: dict[int, Trajectory] = {}
        for indices in together.values():
            embedded = torch.cat([inputs[index].embedded for index in indices])
            prompts = torch.cat([inputs[index].prompt_tokens for index in indices])
            steps = self.model.denoise(embedded, prompts, generation, self.attention)
            (finished,) = deque(checked(steps), maxlen=1)
            found |= {index: _trajectory(finished, row) for row, index in enumerate(indices)}
        return [found[index] for index in range(len(inputs))]

    @property
    def answer_format(self) -> AnswerFormat:
        config = self.model.config
        return AnswerFormat(
            length=config.answer_length,
            num_tokens=config.vocab_size,
            mask_token=MASK,
            end_tokens=(EOS,),
            end=EOS,
            padding=EOS,  # as trained
        )

    def encode_answer(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def embed(self, inputs: TinyInputs, canvases: Tensor) -> Hidden:
        image, canvas = inputs.embedded, self.model.embed(canvases)
        prompt = self.model.embed(inputs.prompt_tokens).expand(len(image), -1, -1)
        prefix = torch.cat((image, prompt), 1)
        if self.attention == "prefix":
            return Hidden(prefix, canvas)
        return Hidden(torch.cat((prefix.expand(len(canvas), -1, -1), canvas), 1))

    def layer(self, index: int, hidden: Hidden, inputs: TinyInputs) -> Hidden:
        if hidden.canvas is not None:
            return super().layer(index, hidden, inputs)
        if index == self.num_layers - 1:
            return Hidden(self._last_layer(hidden, inputs))
        return Hidden(self.model.layers()[index](hidden.image, inputs.rotary_joint))

    def _last_layer(self, hidden: Hidden, inputs: TinyInputs, rows: Tensor | None = None) -> Tensor:
        """The answer's rows at the output of the last layer, `[C, L, D]`, or `rows` of them, int64 `[C, R]`."""
        layer, image, canvas = self.model.layers()[-1], hidden.image, hidden.canvas
        if canvas is None:
            image, canvas = image.tensor_split((len(inputs.rotary_prefix[0]),), 1)
        context = layer.context(image, inputs.rotary_prefix)
        return layer.extend(canvas, inputs.rotary_canvas, *context, rows)

    def prefix_layer(self, index: int, image: Tensor, inputs: TinyInputs) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        layer = self.model.layers()[index]
        if index == self.num_layers - 1:
            return image, layer.context(image, inputs.rotary_prefix)
        q, k, v = layer.project(image, inputs.rotary_prefix)
        return layer.finish(image, attend(q, k, v)), (k, v)

    def canvas_layer(self, index: int, canvas: Tensor, context: tuple[Tensor, Tensor], inputs: TinyInputs) -> Tensor:
        return self.model.layers()[index].extend(canvas, inputs.rotary_canvas, *context)

    def logits(self, hidden: Hidden, rows: Tensor, inputs: TinyInputs) -> Tensor:
        return self.model.logits(rows_at(hidden.answer(self.model.config.answer_length), rows))

    def answer_logits(self, hidden: Hidden, rows: Tensor, inputs: TinyInputs) -> Tensor:
        return self.model.logits(self._last_layer(hidden, inputs, rows))

    def image_logits(self, hidden: Hidden, cells: Tensor, tokens: Tensor, inputs: TinyInputs) -> Tensor:
        rotary = inputs.rotary_joint if hidden.canvas is None else inputs.rotary_prefix
        image = self.model.layers()[-1](hidden.image, rotary)
        return self.model.logits(image[:, cells])[..., tokens]

    def batched(self, inputs: Sequence[TinyInputs]) -> Iterator[tuple[TinyInputs, slice]]:
        if inputs:
            embedded = torch.cat([item.embedded for item in inputs])
            yield replace(inputs[0], embedded=embedded), slice(0, len(inputs))

    def layer_module(self, index: int) -> nn.Module:
        return self.model.layers()[index]

    def words(self, trajectory: Trajectory) -> tuple[Word, ...]:
        tokens = trajectory.tokens[: trajectory.length].tolist()
        return tuple(Word(self.decode_token(token), (position,)) for position, token in enumerate(tokens))

    def decode_token(self, token: int) -> str:
        return str(self.tokenizer.id_to_token(token))

    def decode(self, tokens: Tensor) -> str:
        return str(self.tokenizer.decode(tokens.tolist(), skip_special_tokens=False))
