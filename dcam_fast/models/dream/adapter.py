"""What Dimple and Dream-VL share: a Qwen vision tower and Dream's language model, a bidirectional Qwen2.

Logits are shifted by one: those of an answer position are read one row before it. Those of the first position are read
at the prompt's last row. The model's code comes with the checkpoint. It computes image tokens and positions, and the
adapters run its layers.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, ProcessorMixin
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from dcam_fast.models.adapter import (
    DEFAULT_GENERATION,
    OPEN,
    AdapterError,
    Hidden,
    ImageView,
    Inputs,
    Trajectory,
    boxes_between,
    rows_at,
)
from dcam_fast.models.checkpoint import Releases, build_model, check_transformers, default_dtype
from dcam_fast.models.generation import Generation
from dcam_fast.models.given import AnswerFormat
from dcam_fast.models.loaded import is_tokenizer
from dcam_fast.models.pretrained import MaskedAdapter, head_logits, without_none
from dcam_fast.models.sampling import draw, keep_likely, make_generator
from dcam_fast.models.text import check_prompt, piece_of

LAST_TIME: Final = 1e-3  # where the official code's schedule ends; it starts at 1


@dataclass(frozen=True)
class DreamInputs(Inputs):
    """What the layers need.

    Attributes:
        embedded: `[1, P, D]`, the prompt and its image tokens at the input of layer 0.
        rotary: cosines and sines `[3, 1, P + L, d]` of all positions, by time, row and column.
    """

    embedded: Tensor
    rotary: tuple[Tensor, Tensor]


class _Cache:
    """A minimal cache of transformers: attention writes keys and values `[C, heads, rows, d]` to it and reads those of
    earlier rows from it."""

    def __init__(self, earlier: tuple[Tensor, Tensor] | None = None) -> None:
        self.earlier = earlier
        self.written: tuple[Tensor, Tensor] | None = None

    def update(self, keys: Tensor, values: Tensor, _layer: int, _options: Any = None) -> tuple[Tensor, Tensor]:
        self.written = keys, values
        if self.earlier is None:
            return keys, values
        return torch.cat((self.earlier[0], keys), 2), torch.cat((self.earlier[1], values), 2)


class DreamAdapter(MaskedAdapter[DreamInputs]):
    """An adapter of a model with Dream's language model (arXiv 2508.15487).

    With prefix attention, image and prompt run once, followed by a masked answer. After that, only the prompt's last
    token and the answer run; they read the keys and values of the rows before them. So the image stream is the sequence
    with the masked answer, and the canvas stream begins with the prompt's last token. With joint attention there is one
    sequence.

    Attributes:
        transformers: the supported releases.
        projector: name of the module between vision tower and language model.
    """

    logit_shift = 1
    transformers: Releases
    projector: str

    def __init__(self, model: Any, processor: Any, *, name: str, attention: str | None, answer_length: int) -> None:
        """
        Args:
            model: of the official code.
            processor: the checkpoint's, with its chat template.
            name: shown in results.
            attention: topology of the generation and of its replay (None: the first of `topologies`).
            answer_length: tokens in an answer.

        Raises:
            AdapterError: for an attention that the family does not support, or an answer without tokens.
        """
        self.check_options(attention, answer_length)
        super().__init__(model, processor.tokenizer, name=name, layers=model.model.layers)
        self.config = model.config
        self.processor = processor
        self.attention = attention or self.topologies[0]
        self.has_two_streams = self.attention == "prefix"
        self.answer_length = answer_length
        self.mask_token: int = self.config.mask_token_id
        ends = (self.tokenizer.eos_token_id, self.config.eos_token_id, self.config.pad_token_id)
        self._end_tokens = torch.tensor([end for end in ends if end is not None], device=self.device)

    # ------------------------------------------------------------------------------------------------------- encoding

    @torch.no_grad()
    def encode(self, image: NDArray[np.uint8], prompt: str) -> DreamInputs:
        processed = self._process(image, prompt)
        tokens, grid = processed["input_ids"].to(self.device), processed["image_grid_thw"].to(self.device)
        tower, config = self.config.vision_config, self.config
        h, w = (side // tower.spatial_merge_size for side in grid[0, 1:].tolist())
        cells = (tokens[0] == config.image_token_id).nonzero()[:, 0]
        if len(cells) != h * w:
            raise AdapterError(f"{self.family}: chat template must have room for {h * w} cells, got {len(cells)}")
        pixels = processed["pixel_values"].to(next(self.model.visual.parameters()))
        features = getattr(self.model, self.projector)(self.model.visual(pixels, grid_thw=grid))
        embedded = self.model.model.embed_tokens(tokens)
        embedded[0, cells] = features.to(embedded)
        sequence = torch.cat((tokens, self.masked_answer()[None]), 1)
        positions, _ = self.model.get_rope_index(sequence, image_grid_thw=grid)
        return DreamInputs(
            image=image,
            prompt=prompt,
            views=(ImageView("image", cells.view(h, w), _boxes(image.shape[:2], (h, w)).to(self.device)),),
            side=int(grid[0, 1:].min()) * tower.patch_size,
            embedded=embedded,
            rotary=self.model.model.rotary_emb(embedded, positions),
        )

    def _process(self, image: NDArray[np.uint8], prompt: str) -> Any:
        """Tokens, pixels and grid, by the checkpoint's processor."""
        reserved = (self.config.image_token_id, self.config.video_token_id, self.mask_token)
        tokens = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        check_prompt(self.family, prompt, tokens, {token: str(piece_of(self.tokenizer, token)) for token in reserved})
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
        try:
            text = self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        except ValueError as error:
            raise AdapterError(f"{self.family}: processor must have a chat template, got none: {error}") from error
        try:
            return self.processor(text=[text], images=[Image.fromarray(image)], return_tensors="pt")
        except ValueError as error:
            h, w = image.shape[:2]
            raise AdapterError(
                f"{self.family}: image must be one that the model can process, got {w} x {h} pixels: {error}"
            ) from error

    # ----------------------------------------------------------------------------------------------------- generation

    def denoise(self, inputs: DreamInputs, generation: Generation = DEFAULT_GENERATION) -> Iterator[Trajectory]:
        length = self.answer_length
        if generation.block_length not in (None, length):
            raise AdapterError(
                f"generate: block_length must be {length}, the whole answer, got {generation.block_length}"
            )
        return self._unmask(inputs, generation)

    @torch.no_grad()
    def _unmask(self, inputs: DreamInputs, generation: Generation) -> Iterator[Trajectory]:
        steps = self.answer_length if generation.steps is None else generation.steps
        temperature, generator = generation.temperature or 0.0, make_generator(generation, self.device)
        logits_of = self.logits_fn(inputs)
        times = torch.linspace(1, LAST_TIME, steps + 1, device=self.device)
        canvas = self.masked_answer()
        written = torch.full_like(canvas, OPEN)
        for step in range(steps):
            masked = (canvas == self.mask_token).nonzero()[:, 0]
            if not len(masked):
                break
            count = self.num_to_unmask(len(masked), step, times)
            if count or temperature:  # some steps of the official schedule unmask nothing, but draw
                logits = logits_of(canvas)[masked].to(inputs.embedded.dtype)
                likely = keep_likely(logits / (temperature or 1.0), self.config.top_k, self.config.top_p)
                probabilities = likely.softmax(-1)
                is_last = step == steps - 1
                if is_last:  # before, a position whose guess is the mask stays masked
                    probabilities[:, self.mask_token] = 0
                guess = draw(probabilities, generator) if temperature else probabilities.argmax(-1)
                confidence = self.confidences(logits, probabilities).gather(1, guess[:, None])[:, 0]
                chosen = torch.arange(len(masked), device=self.device) if is_last else self.choose(confidence, count)
                chosen = chosen[guess[chosen] != self.mask_token]
                canvas, written = canvas.clone(), written.clone()
                canvas[masked[chosen]], written[masked[chosen]] = guess[chosen], step
            ends = torch.isin(canvas, self._end_tokens).nonzero()
            yield Trajectory(canvas, written, int(ends[0]) if len(ends) else len(canvas))

    @abstractmethod
    def num_to_unmask(self, num_masked: int, step: int, times: Tensor) -> int:
        """How many of the `num_masked` positions to unmask in the step from `times[step]` to `times[step + 1]`."""

    @abstractmethod
    def confidences(self, logits: Tensor, probabilities: Tensor) -> Tensor:
        """Confidence `[n, V]` of each possible guess.

        Args:
            logits: `[n, V]`, the model's.
            probabilities: `[n, V]`, from which guesses are taken: at the temperature, of the likely tokens only.
        """

    def choose(self, confidence: Tensor, count: int) -> Tensor:
        """The masked positions to unmask, int64 `[n]`, given the confidence `[n]` of the guess for each."""
        return confidence.topk(count).indices

    @property
    def answer_format(self) -> AnswerFormat:
        """The tokenizer's end token, then the model's padding."""
        ends = self._end_tokens.tolist()
        return AnswerFormat(
            length=self.answer_length,
            num_tokens=self.model.model.embed_tokens.num_embeddings,
            mask_token=self.mask_token,
            end_tokens=tuple(ends),
            end=ends[0] if ends else None,
            padding=ends[-1] if ends else self.mask_token,
        )

    # --------------------------------------------------------------------------------------------------------- layers

    def embed(self, inputs: DreamInputs, canvases: Tensor) -> Hidden:
        prompt, tokens = inputs.embedded, self.model.model.embed_tokens
        answers = tokens(canvases)
        if self.has_two_streams:
            last = prompt[:, -1:].expand(len(answers), -1, -1)
            return Hidden(torch.cat((prompt, tokens(self.masked_answer())[None]), 1), torch.cat((last, answers), 1))
        return Hidden(torch.cat((prompt.expand(len(answers), -1, -1), answers), 1))

    def prompt_rows(self, inputs: DreamInputs, count: int) -> Tensor:
        # the prefix ends in masked positions, which nothing reads
        return super().prompt_rows(inputs, inputs.embedded.shape[1])

    def layer(self, index: int, hidden: Hidden, inputs: DreamInputs) -> Hidden:
        if hidden.canvas is None:
            return Hidden(self._run(index, hidden.image, inputs, None))
        return super().layer(index, hidden, inputs)

    def prefix_layer(self, index: int, image: Tensor, inputs: DreamInputs) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        cache = _Cache()
        image = self._run(index, image, inputs, cache)
        keys, values = cast(tuple[Tensor, Tensor], cache.written)
        kept = inputs.embedded.shape[1] - 1
        return image, (keys[:, :, :kept], values[:, :, :kept])

    def canvas_layer(self, index: int, canvas: Tensor, context: tuple[Tensor, Tensor], inputs: DreamInputs) -> Tensor:
        keys, values = (part.expand(len(canvas), -1, -1, -1) for part in context)
        return self._run(index, canvas, inputs, _Cache((keys, values)))

    def _run(self, index: int, stream: Tensor, inputs: DreamInputs, cache: _Cache | None) -> Tensor:
        """Layer `index` on the last `R` rows of the sequence, `stream`, `[C, R, D]`."""
        cos, sin = inputs.rotary
        rows, keys = stream.shape[1], cos.shape[2]
        output: Tensor = self.layers[index](
            stream,
            attention_mask=torch.ones((1, 1, rows, keys), dtype=torch.bool, device=stream.device),
            past_key_value=cache,
            position_embeddings=(cos[:, :, -rows:], sin[:, :, -rows:]),
        )[0]
        return output

    def logits(self, hidden: Hidden, rows: Tensor, inputs: DreamInputs) -> Tensor:
        # Row 0 is the prompt's last token, where the logits of the answer's first token are.
        answer = rows_at(hidden.answer(self.answer_length + 1), rows)
        logits: Tensor = self.model.lm_head(self.model.model.norm(answer))
        return logits.float()

    def image_logits(self, hidden: Hidden, cells: Tensor, tokens: Tensor, inputs: DreamInputs) -> Tensor:
        image = self.model.model.norm(self._run(self.num_layers - 1, hidden.image, inputs, None)[:, cells])
        return head_logits(self.model.lm_head, image, tokens)


def _boxes(size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Boxes float32 `[h, w, 4]` over all of a photo of `size` (height, width), which is resized to whole cells."""
    y, x = (torch.arange(count + 1, dtype=torch.float64) * side / count for side, count in zip(size, grid, strict=True))
    return boxes_between((x[:-1], x[1:]), (y[:-1], y[1:]))


# ------------------------------------------------------------------------------------------------------------- loading


def load_checkpoint(
    adapter_class: type[DreamAdapter],
    path: Path,
    *,
    name: str,
    device: str,
    trust_remote_code: bool,
    dtype: torch.dtype | None,
    attention: str | None,
    answer_length: int | None,
) -> DreamAdapter:
    """Loads the checkpoint in a folder; see `dcam_fast.models.load`.

    Args:
        adapter_class: of the family.
        path: the folder.
        name: shown in results.
        device: of the model.
        trust_remote_code: must be True, because the model's code is in the checkpoint.
        dtype: of the weights (None: float32 on a CPU, else bfloat16).
        attention: topology of the generation (None: the family's default).
        answer_length: tokens in an answer (None: the family's default).

    Raises:
        AdapterError: for a checkpoint that cannot be loaded, or an unsupported release of transformers.
    """
    family = adapter_class.family
    adapter_class.check_options(attention, answer_length)
    if not trust_remote_code:
        raise AdapterError(
            f"{family}: trust_remote_code (--trust-remote-code) must be True, as the model's code comes with "
            f"the checkpoint in {path}, got False"
        )
    check_transformers(family, adapter_class.transformers)
    classes = json.loads((path / "config.json").read_text()).get("auto_map", {})
    if "AutoModel" not in classes:
        raise AdapterError(f"load: {path / 'config.json'} must name the model's code in auto_map, got {classes}")
    try:
        model_class: Any = get_class_from_dynamic_module(classes["AutoModel"], path, local_files_only=True)
        processor = AutoProcessor.from_pretrained(path, local_files_only=True, trust_remote_code=True)
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise AdapterError(f"load: {path} must hold the model's code and its processor, got {error!r}") from error
    if not isinstance(processor, ProcessorMixin):  # its files are missing: transformers returned a tokenizer
        raise AdapterError(f"load: {path} must hold the model's processor, got only its {type(processor).__name__}")
    model = build_model(model_class, model_class.config_class, path, device, dtype or default_dtype(device))
    return adapt(adapter_class, model, processor, name=name, attention=attention, answer_length=answer_length)


def adapt(adapter_class: type[DreamAdapter], model: Any, processor: Any, *, name: str, **options: Any) -> DreamAdapter:
    """The adapter of a loaded model; see `dcam_fast.models.adapter_of`. Options of None are the family's defaults."""
    family = adapter_class.family
    check_transformers(family, adapter_class.transformers)
    parts = ("model", "lm_head", "visual", adapter_class.projector)
    if missing := [part for part in parts if not hasattr(model, part)]:
        raise AdapterError(
            f"{family}: model must have {', '.join(parts)}, got {type(model).__name__} without {missing[0]}"
        )
    if not callable(processor) or not is_tokenizer(getattr(processor, "tokenizer", None)):
        raise AdapterError(f"{family}: processor must be the checkpoint's, got {type(processor).__name__}")
    make: Any = adapter_class
    adapter: DreamAdapter = make(model, processor, name=name, **without_none(**options))
    return adapter
