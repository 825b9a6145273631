"""DiffusionGemma (``model_type`` diffusion_gemma), as transformers has it since 5.11.

An encoder reads image and prompt; a decoder denoises a canvas of uniform noise and reads, in each of its blocks, the
keys and values of the encoder's block of the same number. So block ``i`` here is both: the encoder's is the image
stream's part and the decoder's the canvas's. What the encoder's last block puts out nobody reads, which is why it
cannot be explained.

Nothing of an answer is final before the last step: tokens are accepted, taken back and written again. A token counts as
committed at the step from which on the model's best guess for its position stays what it is in the answer. Every step
but the first also reads the guesses of the step before (self-conditioning); they are kept as the mean embeddings that
the decoder makes of them, which are a hundredth of the logits' size.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoTokenizer, DynamicCache

from dcam_fast.models.adapter import (
    NO_MASK,
    Adapter,
    AdapterError,
    Hidden,
    ImageView,
    Inputs,
    Trajectory,
    Word,
)
from dcam_fast.models.checkpoint import load_model
from dcam_fast.models.diffusion_gemma.generation import RandomNumbers, Record, recording
from dcam_fast.models.stepping import stepwise
from dcam_fast.models.text import decode, words_of

TRANSFORMERS = "5.11.0"  # the first release with the family; run with it and with 5.23.0


@dataclass(frozen=True)
class DiffusionGemmaInputs(Inputs):
    """What the model gets.

    Attributes:
        tokens: int64 ``[1, S]``, the prompt with a token for every image cell.
        image_tokens: what the processor made of the image: patches and their positions.
        embedded: ``[1, S, D]``, the same embedded.
        masks: attention masks of the encoder by layer type; None where causal attention is all.
        positions: int64 ``[1, S]``.
    """

    tokens: Tensor
    image_tokens: dict[str, Tensor]
    embedded: Tensor
    masks: dict[str, Tensor | None]
    positions: Tensor


class _Context:
    """Keys and values ``[C, heads, S, d]`` of one block, as the decoder's attention reads them from a cache."""

    is_compileable = False

    def __init__(self, index: int, keys: Tensor, values: Tensor) -> None:
        self.layers = {index: self}
        self.keys, self.values = keys, values


class DiffusionGemmaAdapter(Adapter[DiffusionGemmaInputs]):
    """Answers of one canvas, by transformers' own generation. Sampling is seeded, so the same question has the same
    answer."""

    mask_token = NO_MASK
    default_prompt = "Describe the image."
    has_two_streams = True

    def __init__(self, model: Any, tokenizer: Any, processor: Any, *, name: str, seed: int = 0) -> None:
        """
        Args:
            model: a ``DiffusionGemmaForBlockDiffusion``; it is frozen.
            tokenizer: with a chat template that writes the image token for an image.
            processor: the image processor.
            name: shown in results.
            seed: of the noise and the sampling.
        """
        model.eval().requires_grad_(False)
        self.model = model
        self.tokenizer = tokenizer
        self.processor = processor
        self.name = name
        self.seed = seed
        self.device = next(model.parameters()).device
        self.config = model.config
        self.num_layers: int = self.config.text_config.num_hidden_layers
        if self.num_layers < 2:
            raise AdapterError(f"diffusion_gemma: model must have at least two blocks, got {self.num_layers}")
        self.default_layers = (min(self.num_layers - 2, self.num_layers * 2 // 3),)
        self._conditioning: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()

    # ------------------------------------------------------------------------------------------------------- encoding

    @torch.no_grad()
    def encode(self, image: NDArray[np.uint8], prompt: str) -> DiffusionGemmaInputs:
        try:
            pixels = self.processor(images=[image], return_tensors="pt", input_data_format="channels_last")
        except ValueError as error:
            h, w = image.shape[:2]
            raise AdapterError(
                f"diffusion_gemma: image must be one the model can take, got {h} x {w}: {error}"
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
        # `encoder.forward` makes these as well but does not use them: without them an image would be read causally
        masks = encoder.create_masks_for_generate(
            config=self.config,
            inputs_embeds=embedded,
            attention_mask=torch.ones_like(tokens, dtype=torch.bool),
            past_key_values=DynamicCache(config=self.config.text_config),
            position_ids=positions,
            mm_token_type_ids=is_image.long(),
        )
        return DiffusionGemmaInputs(
            image=image,
            prompt=prompt,
            views=(ImageView("image", is_image[0].nonzero().view(h, w), self._boxes(image, h, w)),),
            side=min(h, w) * pool * self.processor.patch_size,
            tokens=tokens,
            image_tokens=patches,
            embedded=embedded,
            masks=masks,
            positions=positions,
        )

    def _boxes(self, image: NDArray[np.uint8], h: int, w: int) -> Tensor:
        """The whole image is squeezed to whole cells, so that cells share it out evenly."""
        y = torch.linspace(0, image.shape[0], h + 1)
        x = torch.linspace(0, image.shape[1], w + 1)
        corners = [edge.expand(h, w) for edge in (x[None, :-1], y[:-1, None], x[None, 1:], y[1:, None])]
        return torch.stack(corners, -1).to(self.device)

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
        at = tokens.index(image)
        span = [self.config.boi_token_id, *[image] * cells, self.config.eoi_token_id]
        return torch.tensor([[*tokens[:at], *span, *tokens[at + 1 :]]], device=self.device)

    # ----------------------------------------------------------------------------------------------------- generation

    def generate(
        self, inputs: DiffusionGemmaInputs, steps: int | None = None, block_length: int | None = None
    ) -> Trajectory:
        self._check_generation(steps, block_length)
        with RandomNumbers(self.seed, self.device).drawn():
            return self._generate(inputs, steps, lambda _: None)

    def denoise(
        self, inputs: DiffusionGemmaInputs, steps: int | None = None, block_length: int | None = None
    ) -> Iterator[Trajectory]:
        self._check_generation(steps, block_length)
        return self._denoised(inputs, steps)

    def _denoised(self, inputs: DiffusionGemmaInputs, steps: int | None) -> Iterator[Trajectory]:
        """transformers' generation cannot be stepped, so it waits in a thread between steps."""
        numbers = RandomNumbers(self.seed, self.device)
        so_far = stepwise(lambda hand: self._generate(inputs, steps, hand))
        try:
            while True:
                with numbers.drawn():
                    trajectory = next(so_far, None)
                if trajectory is None:
                    return
                yield trajectory
        finally:
            so_far.close()

    def _check_generation(self, steps: int | None, block_length: int | None) -> None:
        length = self.config.canvas_length
        if block_length not in (None, length):
            raise AdapterError(
                f"generate: block_length must be {length}, the canvas of {self.name}, got {block_length}"
            )
        if steps is not None and steps < 1:
            raise AdapterError(f"generate: steps must be at least 1, got {steps}")

    @torch.no_grad()
    def _generate(
        self, inputs: DiffusionGemmaInputs, steps: int | None, hand: Callable[[Trajectory], None]
    ) -> Trajectory:
        """The finished trajectory; to ``hand`` goes what there is of it after every step but the last."""
        ends = self._ends()
        given = {} if steps is None else {"max_denoising_steps": steps}

        def step_over(record: Record) -> None:
            hand(record.trajectory(ends))

        with recording(self.model.model.decoder, self._conditioning, step_over) as record:
            out = self.model.generate(
                inputs.tokens,
                mm_token_type_ids=(inputs.tokens == self.config.image_token_id).long(),
                max_new_tokens=self.config.canvas_length,
                max_length=None,  # which would win over as many new tokens as the default, and ask for several canvases
                cache_implementation="dynamic",  # whatever the checkpoint asks for: the replay reads such a one
                streamer=record,
                **inputs.image_tokens,
                **given,
            )
        del out
        return record.trajectory(ends)

    def _ends(self) -> list[int]:
        """The tokens that end a generation of transformers: those of its generation config alone."""
        end = self.model.generation_config.eos_token_id
        return list(end) if isinstance(end, list | tuple) else [] if end is None else [end]

    # --------------------------------------------------------------------------------------------------------- blocks

    def embed(self, inputs: DiffusionGemmaInputs, canvases: Tensor) -> Hidden:
        decoder, length = self.model.model.decoder, self.config.canvas_length
        embedded = decoder.embed_tokens(canvases[:, :length])
        known = torch.zeros_like(embedded)
        for row, number in enumerate(canvases[:, length].tolist()):
            if number:
                if number not in self._conditioning:
                    raise AdapterError(
                        "embed: canvases must be of a trajectory that is still there, got one that is not"
                    )
                known[row] = self._conditioning[number]
        return Hidden(inputs.embedded, decoder.self_conditioning(embedded, known))

    def layer(self, index: int, hidden: Hidden, inputs: DiffusionGemmaInputs) -> Hidden:
        if hidden.canvas is None:
            raise AdapterError("block: hidden must have a canvas stream, got none")
        image, context = self.prefix_layer(index, hidden.image, inputs)
        return Hidden(image, self.canvas_layer(index, hidden.canvas, context, inputs))

    def prefix_layer(
        self, index: int, image: Tensor, inputs: DiffusionGemmaInputs
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        encoder = self.model.model.encoder.language_model
        layer, kind = encoder.layers[index], self.config.text_config.layer_types[index]
        cache = DynamicCache(config=self.config.text_config)  # which keeps a sliding block's last keys only
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
        asked = hidden.canvas.gather(1, rows[..., None].expand(-1, -1, hidden.canvas.shape[-1]))
        cap = self.model.final_logit_softcapping
        return torch.tanh(self.model.lm_head(self.model.model.decoder.norm(asked)).float() / cap) * cap

    def layer_module(self, index: int) -> nn.Module:
        """The decoder's; the encoder's has the same weights wherever it has any of its own."""
        return self.model.model.decoder.layers[index]

    # ----------------------------------------------------------------------------------------------------------- text

    def words(self, trajectory: Trajectory) -> tuple[Word, ...]:
        return words_of(self.tokenizer, trajectory.tokens[: trajectory.length])

    def decode(self, tokens: Tensor) -> str:
        return decode(self.tokenizer, tokens)


def load_adapter(
    path: Path, *, device: str, attention: str | None, trust_remote_code: bool, dtype: torch.dtype | None
) -> DiffusionGemmaAdapter:
    """See `dcam_fast.models.load`. The family needs no remote code, and so runs none, trusted or not."""
    if attention is not None:
        raise AdapterError(f"diffusion_gemma: attention must be the model's own, None, got {attention!r}")
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
    return DiffusionGemmaAdapter(model, tokenizer, processor, name=path.resolve().name)
