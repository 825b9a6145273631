"""What Dimple and Dream-VL share: Dream's language model, a Qwen2 that was made bidirectional, behind a Qwen vision
tower. Logits are shifted by one: those of an answer position are read one row in front of it, those of the first one
at the prompt's last row.

The model's code comes with the checkpoint. It makes image tokens and positions, and the adapters run its blocks.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import AutoProcessor, ProcessorMixin
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from dcam_fast.models.adapter import OPEN, Adapter, AdapterError, Hidden, ImageView, Inputs, Trajectory, Word
from dcam_fast.models.checkpoint import Releases, build_model, check_transformers, default_dtype
from dcam_fast.models.text import check_prompt, decode, piece_of, words_of

LAST_TIME: Final = 1e-3  # of the authors' clock, which starts at 1


@dataclass(frozen=True)
class DreamInputs(Inputs):
    """What the blocks need.

    Attributes:
        embedded: ``[1, P, D]``, the prompt and its image tokens as the first block takes them in.
        rotary: cosines and sines ``[3, 1, P + L, d]`` of all positions, by time, row and column.
    """

    embedded: Tensor
    rotary: tuple[Tensor, Tensor]


class _Cache:
    """What attention writes its keys and values ``[C, heads, rows, d]`` to, and reads those of earlier rows from, as if
    it were a cache of transformers."""

    def __init__(self, earlier: tuple[Tensor, Tensor] | None = None) -> None:
        self.earlier = earlier
        self.written: tuple[Tensor, Tensor] | None = None

    def update(self, keys: Tensor, values: Tensor, _layer: int, _options: Any = None) -> tuple[Tensor, Tensor]:
        self.written = keys, values
        if self.earlier is None:
            return keys, values
        return torch.cat((self.earlier[0], keys), 2), torch.cat((self.earlier[1], values), 2)


class DreamAdapter(Adapter[DreamInputs]):
    """An adapter of a model with Dream's language model.

    With prefix attention image and prompt run once, in front of an answer that is all masks; from then on only the
    prompt's last token and the answer run, and read the keys and values of what is in front of them. So the image
    stream is the sequence with the masked answer, and the canvas stream begins with the prompt's last token. With joint
    attention all is one sequence.
    """

    family: str
    transformers: Releases
    topologies: tuple[str, ...]  # of the attention, the default first
    projector: str  # the module behind the vision tower

    def __init__(self, model: Any, processor: Any, *, name: str, attention: str | None, answer_length: int) -> None:
        if attention is not None and attention not in self.topologies:
            raise AdapterError(f"{self.family}: attention must be {' or '.join(self.topologies)}, got {attention!r}")
        if answer_length < 1:
            raise AdapterError(f"{self.family}: answer_length must be at least 1, got {answer_length}")
        self.layers = model.model.layers
        self.num_layers = len(self.layers)
        if self.num_layers < 2:
            raise AdapterError(f"{self.family}: model must have at least two blocks, got {self.num_layers}")
        model.eval().requires_grad_(False)
        self.model = model
        self.config = model.config
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.name = name
        self.attention = attention or self.topologies[0]
        self.has_two_streams = self.attention == "prefix"
        self.answer_length = answer_length
        self.mask_token: int = self.config.mask_token_id
        self.device = model.lm_head.weight.device
        self.default_layers = (min(self.num_layers - 2, self.num_layers * 2 // 3),)
        ends = (self.tokenizer.eos_token_id, self.config.eos_token_id, self.config.pad_token_id)
        self._ends = torch.tensor([end for end in ends if end is not None], device=self.device)

    # ------------------------------------------------------------------------------------------------------- encoding

    @torch.no_grad()
    def encode(self, image: NDArray[np.uint8], prompt: str) -> DreamInputs:
        read = self._read(image, prompt)
        tokens, grid = read["input_ids"].to(self.device), read["image_grid_thw"].to(self.device)
        tower, config = self.config.vision_config, self.config
        h, w = (side // tower.spatial_merge_size for side in grid[0, 1:].tolist())
        cells = (tokens[0] == config.image_token_id).nonzero()[:, 0]
        if len(cells) != h * w:
            raise AdapterError(f"{self.family}: chat template must have room for {h * w} cells, got {len(cells)}")
        pixels = read["pixel_values"].to(next(self.model.visual.parameters()))
        features = getattr(self.model, self.projector)(self.model.visual(pixels, grid_thw=grid))
        embedded = self.model.model.embed_tokens(tokens)
        embedded[0, cells] = features.to(embedded)
        sequence = torch.cat((tokens, self._masked()[None]), 1)
        positions, _ = self.model.get_rope_index(sequence, image_grid_thw=grid)
        return DreamInputs(
            image=image,
            prompt=prompt,
            views=(ImageView("image", cells.view(h, w), _boxes(image.shape[:2], (h, w)).to(self.device)),),
            side=int(grid[0, 1:].min()) * tower.patch_size,
            embedded=embedded,
            rotary=self.model.model.rotary_emb(embedded, positions),
        )

    def _read(self, image: NDArray[np.uint8], prompt: str) -> Any:
        """Tokens, pixels and grid, by the checkpoint's processor."""
        own = (self.config.image_token_id, self.config.video_token_id, self.mask_token)
        tokens = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        check_prompt(self.family, prompt, tokens, {token: str(piece_of(self.tokenizer, token)) for token in own})
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
                f"{self.family}: image must be one that the model can read, got {w} x {h} pixels: {error}"
            ) from error

    def _masked(self) -> Tensor:
        """An answer that is all masks, ``[L]``."""
        return torch.full((self.answer_length,), self.mask_token, device=self.device)

    # ----------------------------------------------------------------------------------------------------- generation

    def generate(self, inputs: DreamInputs, steps: int | None = None, block_length: int | None = None) -> Trajectory:
        *_, last = self.denoise(inputs, steps, block_length)
        return last

    def denoise(
        self, inputs: DreamInputs, steps: int | None = None, block_length: int | None = None
    ) -> Iterator[Trajectory]:
        length = self.answer_length
        if block_length not in (None, length):
            raise AdapterError(f"generate: block_length must be {length}, the whole answer, got {block_length}")
        if steps is not None and steps < 1:
            raise AdapterError(f"generate: steps must be at least 1, got {steps}")
        return self._unmask(inputs, length if steps is None else steps)

    @torch.no_grad()
    def _unmask(self, inputs: DreamInputs, steps: int) -> Iterator[Trajectory]:
        read = self.reader(inputs)
        times = torch.linspace(1, LAST_TIME, steps + 1, device=self.device)
        canvas = self._masked()
        written = torch.full_like(canvas, OPEN)
        for step in range(steps):
            masked = (canvas == self.mask_token).nonzero()[:, 0]
            if not len(masked):
                break
            count = self.num_to_unmask(len(masked), step, times)
            if count:  # some steps of the authors' clock write nothing
                chances = self.chances(read(canvas)[masked].to(self.model.lm_head.weight.dtype))
                is_last = step == steps - 1
                if is_last:  # before, a mask for a guess leaves the position as it is
                    chances[:, self.mask_token] = 0
                sure, guess = chances.max(-1)
                chosen = torch.arange(len(masked), device=self.device) if is_last else self.choose(sure, count)
                chosen = chosen[guess[chosen] != self.mask_token]
                canvas, written = canvas.clone(), written.clone()
                canvas[masked[chosen]], written[masked[chosen]] = guess[chosen], step
            ends = torch.isin(canvas, self._ends).nonzero()
            yield Trajectory(canvas, written, int(ends[0]) if len(ends) else len(canvas))

    @abstractmethod
    def num_to_unmask(self, left: int, step: int, times: Tensor) -> int:
        """How many of the ``left`` masked positions are written in a step that goes from ``times[step]`` to
        ``times[step + 1]``."""

    def chances(self, logits: Tensor) -> Tensor:
        """Probabilities ``[n, V]`` of all guesses, by which the surest are found."""
        return logits.softmax(-1)

    def choose(self, sure: Tensor, count: int) -> Tensor:
        """Which masked positions are written, int64 ``[n]``, given the probability of the best guess for each."""
        return sure.topk(count).indices

    def reader(self, inputs: DreamInputs) -> Callable[[Tensor], Tensor]:
        """From a canvas, int64 ``[L]``, to the logits of all its positions, float32 ``[L, V]``, as generation reads
        them."""
        rows = torch.arange(self.answer_length, device=self.device)[None]
        contexts = []
        if self.has_two_streams:
            image = self.embed(inputs, self._masked()[None]).image
            for index in range(self.num_layers):
                image, context = self.prefix_layer(index, image, inputs)
                contexts.append(context)

        def read(canvas: Tensor) -> Tensor:
            hidden = self.embed(inputs, canvas[None])
            for index in range(self.num_layers):
                if hidden.canvas is None:
                    hidden = self.layer(index, hidden, inputs)
                else:
                    answer = self.canvas_layer(index, hidden.canvas, contexts[index], inputs)
                    hidden = Hidden(hidden.image, answer)
            return self.logits(hidden, rows, inputs)[0]

        return read

    # --------------------------------------------------------------------------------------------------------- blocks

    def embed(self, inputs: DreamInputs, canvases: Tensor) -> Hidden:
        prompt, tokens = inputs.embedded, self.model.model.embed_tokens
        answers = tokens(canvases)
        if self.has_two_streams:
            last = prompt[:, -1:].expand(len(answers), -1, -1)
            return Hidden(torch.cat((prompt, tokens(self._masked())[None]), 1), torch.cat((last, answers), 1))
        return Hidden(torch.cat((prompt.expand(len(answers), -1, -1), answers), 1))

    def layer(self, index: int, hidden: Hidden, inputs: DreamInputs) -> Hidden:
        if hidden.canvas is None:
            return Hidden(self._run(index, hidden.image, inputs, None))
        image, context = self.prefix_layer(index, hidden.image, inputs)
        return Hidden(image, self.canvas_layer(index, hidden.canvas, context, inputs))

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
        """Block ``index`` on the last rows of the sequence, as many as ``stream``, ``[C, R, D]``, has."""
        cos, sin = inputs.rotary
        rows, keys = stream.shape[1], cos.shape[2]
        behind: Tensor = self.layers[index](
            stream,
            attention_mask=torch.ones((1, 1, rows, keys), dtype=torch.bool, device=stream.device),
            past_key_value=cache,
            position_embeddings=(cos[:, :, -rows:], sin[:, :, -rows:]),
        )[0]
        return behind

    def logits(self, hidden: Hidden, rows: Tensor, inputs: DreamInputs) -> Tensor:
        # Row 0 is the prompt's last token, where the answer's first one is read.
        answer = hidden.image[:, inputs.embedded.shape[1] - 1 :] if hidden.canvas is None else hidden.canvas
        asked = answer.gather(1, rows[..., None].expand(-1, -1, answer.shape[-1]))
        logits: Tensor = self.model.lm_head(self.model.model.norm(asked))
        return logits.float()

    def image_logits(self, hidden: Hidden, cells: Tensor, tokens: Tensor, inputs: DreamInputs) -> Tensor:
        image = self.model.model.norm(self._run(self.num_layers - 1, hidden.image, inputs, None)[:, cells])
        logits: Tensor = image @ self.model.lm_head.weight[tokens].T
        return logits.float()

    def layer_module(self, index: int) -> nn.Module:
        return cast(nn.Module, self.layers[index])

    # ----------------------------------------------------------------------------------------------------------- text

    def words(self, trajectory: Trajectory) -> tuple[Word, ...]:
        return words_of(self.tokenizer, trajectory.tokens[: trajectory.length])

    def decode(self, tokens: Tensor) -> str:
        return decode(self.tokenizer, tokens)


def _boxes(size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Float32 ``[h, w, 4]`` boxes (x0, y0, x1, y1) over all of a photo of ``size`` (height, width), which is squashed
    to a whole number of cells."""
    h, w = grid
    y, x = (torch.arange(count + 1, dtype=torch.float64) * side / count for side, count in zip(size, grid, strict=True))
    corners = (x[None, :-1], y[:-1, None], x[None, 1:], y[1:, None])
    return torch.stack([corner.expand(h, w) for corner in corners], -1).float()


# ------------------------------------------------------------------------------------------------------------- loading


def load_checkpoint(
    family: type[DreamAdapter],
    path: Path,
    *,
    device: str,
    attention: str | None,
    trust_remote_code: bool,
    dtype: torch.dtype | None,
) -> DreamAdapter:
    """An adapter of class ``family`` for the checkpoint in folder ``path``; see `dcam_fast.models.load`."""
    if not trust_remote_code:
        raise AdapterError(
            f"{family.family}: trust_remote_code (--trust-remote-code) must be True, as the model's code comes with "
            f"the checkpoint in {path}, got False"
        )
    check_transformers(family.family, family.transformers)
    classes = json.loads((path / "config.json").read_text()).get("auto_map", {})
    if "AutoModel" not in classes:
        raise AdapterError(f"load: {path / 'config.json'} must name the model's code in auto_map, got {classes}")
    try:
        model_class: Any = get_class_from_dynamic_module(classes["AutoModel"], path, local_files_only=True)
        processor = AutoProcessor.from_pretrained(path, local_files_only=True, trust_remote_code=True)
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise AdapterError(f"load: {path} must hold the model's code and its processor, got {error!r}") from error
    if not isinstance(processor, ProcessorMixin):  # where its files are missing there is a tokenizer in its place
        raise AdapterError(f"load: {path} must hold the model's processor, got only its {type(processor).__name__}")
    model = build_model(model_class, model_class.config_class, path, device, dtype or default_dtype(device))
    make: Any = family
    adapter: DreamAdapter = make(model, processor, name=path.resolve().name, attention=attention)
    return adapter
