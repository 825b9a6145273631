"""DiffusionGemma (`model_type` diffusion_gemma), from transformers 5.11 on.

An encoder processes image and prompt. A decoder denoises a canvas of uniform noise; each of its layers reads the keys
and values of the encoder's layer with the same index. So layer `i` here is both: the encoder's layer is the image
stream's part, the decoder's layer the canvas's. Nothing reads the output of the encoder's last layer, so that layer
cannot be a target layer.

No token is final before the last step: tokens are accepted, revoked and written again. A token's step is the one from
which on the model's best guess for its position is the token of the answer. Every step but the first also reads the
guesses of the step before (self-conditioning). They are kept as mean embeddings, a hundredth of the logits' size.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer, DynamicCache

from dcam_fast.interruption import check_interruption
from dcam_fast.models.adapter import (
    DEFAULT_GENERATION,
    NO_MASK,
    AdapterError,
    Hidden,
    ImageView,
    Inputs,
    Trajectory,
    even_boxes,
    rows_at,
)
from dcam_fast.models.checkpoint import load_model
from dcam_fast.models.diffusion_gemma.generation import GenerationRecord, RandomNumbers, recording
from dcam_fast.models.generation import Generation
from dcam_fast.models.given import AnswerFormat
from dcam_fast.models.loaded import tokenizer_and_image_processor
from dcam_fast.models.pretrained import PretrainedAdapter
from dcam_fast.models.stepping import stepwise

TRANSFORMERS = "5.11.0"  # the first release with the family


@dataclass(frozen=True)
class DiffusionGemmaInputs(Inputs):
    """What the model needs.

    Attributes:
        tokens: int64 `[1, S]`, the prompt with a token for every image cell.
        image_tokens: the processor's output: patches and their positions.
        embedded: `[1, S, D]`, embeddings of tokens and image.
        masks: attention masks of the encoder by layer type; None for plain causal attention.
        positions: int64 `[1, S]`.
    """

    tokens: Tensor
    image_tokens: dict[str, Tensor]
    embedded: Tensor
    masks: dict[str, Tensor | None]
    positions: Tensor


class _Context:
    """Keys and values `[C, heads, S, d]` of one layer, in the form of a cache of transformers."""

    is_compileable = False

    def __init__(self, index: int, keys: Tensor, values: Tensor) -> None:
        self.layers = {index: self}
        self.keys, self.values = keys, values


class DiffusionGemmaAdapter(PretrainedAdapter[DiffusionGemmaInputs]):
    """Answers of one canvas, by the generation of transformers. Sampling is seeded, so the same question has the same
    answer."""

    family = "diffusion_gemma"
    mask_token = NO_MASK
    default_prompt = "Describe the image."
    has_two_streams = True

    def __init__(self, model: Any, tokenizer: Any, processor: Any, *, name: str) -> None:
        """
        Args:
            model: a `DiffusionGemmaForBlockDiffusion`.
            tokenizer: with a chat template that writes the image token for an image.
            processor: the image processor.
            name: shown in results.

        Raises:
            AdapterError: for a model of fewer than two layers.
        """
        # The decoder's layers have all the weights: the encoder's share theirs.
        super().__init__(model, tokenizer, name=name, layers=model.model.decoder.layers)
        self.processor = processor
        self.config = model.config
        self._conditioning: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()

    # ------------------------------------------------------------------------------------------------------- encoding

    @torch.no_grad()
    def encode(self, image: NDArray[np.uint8], prompt: str) -> DiffusionGemmaInputs:
        try:
            pixels = self.processor(images=[image], return_tensors="pt", input_data_format="channels_last")
        except ValueError as error:
            h, w = image.shape[:2]
            raise AdapterError(
                f"diffusion_gemma: image must be one that the model can process, got {h} x {w}: {error}"
            ) from error
        patches = {name: pixels[name].to(self.device) for name in ("pixel_values", "image_position_ids")}
        pool = self.processor.pooling_kernel_size
        w, h = (int(last + 1) // pool for last in patches["image_position_ids"][0].amax(0))
        tokens = self._tokenize(prompt, h * w)
        is_image = tokens == self.config.image_token_id
        positions = torch.arange(tokens.shape[1], device=self.device)[None]
        encoder = self.model.model.encoder
        features = encoder.get_image_features(**patches, return_dict=True).pooler_output
        embedded = encoder.get_input_embeddings()(tokens)
        embedded = embedded.masked_scatter(is_image[..., None], features.to(embedded.dtype))
        # `encoder.forward` makes these masks but does not use them: without them, image attention would be causal
        masks = encoder.create_masks_for_generate(
            config=self.config,
            inputs_embeds=embedded,
            attention_mask=torch.ones_like(tokens, dtype=torch.bool),
            past_key_values=DynamicCache(config=self.config.text_config),
            position_ids=positions,
            mm_token_type_ids=is_image.long(),
        )
        boxes = even_boxes(image.shape[:2], (h, w)).to(self.device)  # the image is resized to whole cells
        return DiffusionGemmaInputs(
            image=image,
            prompt=prompt,
            views=(ImageView("image", is_image[0].nonzero().view(h, w), boxes),),
            side=min(h, w) * pool * self.processor.patch_size,
            tokens=tokens,
            image_tokens=patches,
            embedded=embedded,
            masks=masks,
            positions=positions,
        )

    def _tokenize(self, prompt: str, cells: int) -> Tensor:
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        chat = [{"role": "user", "content": content}]
        try:
            text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        except ValueError as error:
            raise AdapterError(f"diffusion_gemma: tokenizer must have a chat template, got {error}") from error
        tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        image = self.config.image_token_id
        if tokens.count(image) != 1:
            raise AdapterError(
                f"diffusion_gemma: prompt must leave one image token to the chat template, got {tokens.count(image)}"
            )
        start = tokens.index(image)
        span = [self.config.boi_token_id, *[image] * cells, self.config.eoi_token_id]
        return torch.tensor([[*tokens[:start], *span, *tokens[start + 1 :]]], device=self.device)

    # ----------------------------------------------------------------------------------------------------- generation

    def generate(self, inputs: DiffusionGemmaInputs, generation: Generation = DEFAULT_GENERATION) -> Trajectory:
        self._check_generation(generation)
        with RandomNumbers(generation.seed, self.device).drawn():
            return self._generate(inputs, generation, lambda _: check_interruption())

    def denoise(
        self, inputs: DiffusionGemmaInputs, generation: Generation = DEFAULT_GENERATION
    ) -> Iterator[Trajectory]:
        self._check_generation(generation)
        return self._denoised(inputs, generation)

    def _denoised(self, inputs: DiffusionGemmaInputs, generation: Generation) -> Iterator[Trajectory]:
        """The generation of transformers cannot be stepped, so it waits in a thread between steps."""
        numbers = RandomNumbers(generation.seed, self.device)
        trajectories = stepwise(lambda callback: self._generate(inputs, generation, callback))
        try:
            while True:
                with numbers.drawn():
                    trajectory = next(trajectories, None)
                if trajectory is None:
                    return
                yield trajectory
        finally:
            trajectories.close()

    def _check_generation(self, generation: Generation) -> None:
        length, block_length = self.config.canvas_length, generation.block_length
        if block_length not in (None, length):
            raise AdapterError(
                f"generate: block_length must be {length}, the canvas of {self.name}, got {block_length}"
            )
        if generation.temperature == 0:
            raise AdapterError(f"generate: temperature must be above 0 for {self.name}, which draws its tokens, got 0")

    @torch.no_grad()
    def _generate(
        self, inputs: DiffusionGemmaInputs, generation: Generation, callback: Callable[[Trajectory], None]
    ) -> Trajectory:
        """The finished trajectory. `callback` gets the trajectory so far after every step but the last."""
        end_tokens = self._end_tokens()
        options: dict[str, float] = {} if generation.steps is None else {"max_denoising_steps": generation.steps}
        if generation.temperature is not None:  # the same in every step; transformers rejects equal limits
            options |= {"t_min": generation.temperature, "t_max": math.nextafter(generation.temperature, math.inf)}

        def after_step(record: GenerationRecord) -> None:
            callback(record.trajectory(end_tokens))

        with recording(self.model.model.decoder, self._conditioning, after_step) as record:
            out = self.model.generate(
                inputs.tokens,
                mm_token_type_ids=(inputs.tokens == self.config.image_token_id).long(),
                max_new_tokens=self.config.canvas_length,
                max_length=None,  # it would take precedence over max_new_tokens and request several canvases
                cache_implementation="dynamic",  # whatever the checkpoint says: the replay uses a dynamic cache
                streamer=record,
                **inputs.image_tokens,
                **options,
            )
        del out
        return record.trajectory(end_tokens)

    def _end_tokens(self) -> list[int]:
        """The tokens that end a generation of transformers: those of the generation config alone."""
        end = self.model.generation_config.eos_token_id
        return list(end) if isinstance(end, list | tuple) else [] if end is None else [end]

    @property
    def answer_format(self) -> AnswerFormat:
        """The end of the model's turn, then the padding that transformers puts there."""
        ends, padding = self._end_tokens(), self.model.generation_config.pad_token_id
        end = self._end_of_turn(ends)
        return AnswerFormat(
            length=self.config.canvas_length,
            num_tokens=self.config.text_config.vocab_size,
            mask_token=NO_MASK,
            end_tokens=tuple(ends),
            end=end,
            padding=NO_MASK if end is None else end if padding is None else padding,
        )

    def _end_of_turn(self, ends: list[int]) -> int | None:
        """The end token that the chat template writes after an answer, or the first one where it writes none."""
        chat = [{"role": role, "content": [{"type": "text", "text": ""}]} for role in ("user", "assistant")]
        text = self.tokenizer.apply_chat_template(chat, tokenize=False)
        written = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return next((token for token in reversed(written) if token in ends), ends[0] if ends else None)

    def given(
        self, tokens: Sequence[int], steps: Sequence[int] | None = None, generation: Generation = DEFAULT_GENERATION
    ) -> Trajectory:
        """The only known canvas is the first one, the noise that the seed gives. Steps do not determine the others."""
        answer = super().given(tokens, steps, generation)
        with RandomNumbers(generation.seed, self.device).drawn():
            noise = torch.randint(0, self.config.text_config.vocab_size, answer.tokens.shape, device=self.device)
        return replace(answer, canvases=torch.cat((noise, noise.new_zeros(1)))[None])

    # --------------------------------------------------------------------------------------------------------- layers

    def embed(self, inputs: DiffusionGemmaInputs, canvases: Tensor) -> Hidden:
        decoder, length = self.model.model.decoder, self.config.canvas_length
        embedded = decoder.embed_tokens(canvases[:, :length])
        known = torch.zeros_like(embedded)
        for row, number in enumerate(canvases[:, length].tolist()):
            if number:
                if number not in self._conditioning:
                    raise AdapterError(
                        "embed: canvases must be of a trajectory that still exists, got one that does not"
                    )
                known[row] = self._conditioning[number]
        return Hidden(inputs.embedded, decoder.self_conditioning(embedded, known))

    def prefix_layer(
        self, index: int, image: Tensor, inputs: DiffusionGemmaInputs
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        encoder = self.model.model.encoder.language_model
        layer, kind = encoder.layers[index], self.config.text_config.layer_types[index]
        cache = DynamicCache(config=self.config.text_config)  # keeps only the last keys of a sliding-window layer
        mask = inputs.masks[kind]
        options = {
            "position_embeddings": encoder.rotary_emb(image, inputs.positions, kind),
            "attention_mask": mask,
            "past_key_values": cache,
        }
        if index < self.num_layers - 1:
            image = layer(image, **options)
        else:
            layer.self_attn(layer.input_layernorm(image), **options)
        kept: Any = cache.layers[index]
        return image, (kept.keys, kept.values)

    def canvas_layer(
        self, index: int, canvas: Tensor, context: tuple[Tensor, Tensor], inputs: DiffusionGemmaInputs
    ) -> Tensor:
        decoder = self.model.model.decoder
        kind = self.config.text_config.layer_types[index]
        start = inputs.tokens.shape[1]
        positions = torch.arange(start, start + canvas.shape[1], device=canvas.device)[None]
        keys, values = (part.expand(len(canvas), -1, -1, -1) for part in context)
        return decoder.layers[index](
            canvas,
            position_embeddings=decoder.rotary_emb(canvas, positions, kind),
            attention_mask=None,
            past_key_values=_Context(index, keys, values),
        )

    def logits(self, hidden: Hidden, rows: Tensor, inputs: DiffusionGemmaInputs) -> Tensor:
        if hidden.canvas is None:
            raise AdapterError("logits: hidden must have a canvas stream, got none")
        answer = self.model.model.decoder.norm(rows_at(hidden.canvas, rows))
        cap = self.model.final_logit_softcapping
        return torch.tanh(self.model.lm_head(answer).float() / cap) * cap


def load_adapter(
    path: Path, *, name: str, device: str, trust_remote_code: bool, dtype: torch.dtype | None
) -> DiffusionGemmaAdapter:
    """See `dcam_fast.models.load`. The family needs no code from the checkpoint and never runs any."""
    try:
        from transformers import DiffusionGemmaForBlockDiffusion
        from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
    except ImportError as error:
        raise AdapterError(
            f"diffusion_gemma: transformers must be {TRANSFORMERS} or newer, got {transformers.__version__}; "
            f"pip install 'transformers>={TRANSFORMERS}'"
        ) from error
    if not any((path / file).is_file() for file in ("tokenizer.json", "tokenizer.model")):
        raise AdapterError(f"load: {path} must have a tokenizer.json or tokenizer.model, got neither")
    model = load_model(DiffusionGemmaForBlockDiffusion, path, device, dtype=dtype or "auto")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        processor = Gemma4ImageProcessorPil.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise AdapterError(f"load: {path} must have a tokenizer and an image processor, got {error}") from error
    return adapter_of(model, (tokenizer, processor), name=name)


def adapter_of(model: Any, processor: Any, *, name: str) -> DiffusionGemmaAdapter:
    """See `dcam_fast.models.adapter_of`. The processor is a pair of tokenizer and image processor, or has both."""
    if not hasattr(getattr(model, "model", None), "decoder") or not hasattr(model, "lm_head"):
        raise AdapterError(
            f"diffusion_gemma: model must be a DiffusionGemmaForBlockDiffusion, got {type(model).__name__}"
        )
    tokenizer, image_processor = tokenizer_and_image_processor("diffusion_gemma", processor)
    return DiffusionGemmaAdapter(model, tokenizer, image_processor, name=name)
