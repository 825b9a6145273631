"""What LaViDa and LLaDA-V share: both are LLaVA around LLaDA, each with a package ``llava`` of its own and with the
``model_type`` llava_llada, and so one process can hold only one of them.

The authors' code makes the input of the first block (tiles, vision tower, projector, newlines); the adapters run the
authors' blocks on it. Two views are there: ``"grid"``, the tiles put together, and ``"base"``, the whole photo squashed
into one tile. Explained is the grid unless the caller says otherwise: it has more cells, and they are as wide as they
are high on the photo.
"""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from dcam_fast.models.adapter import Adapter, AdapterError, Hidden, Inputs, Trajectory, Word
from dcam_fast.models.checkpoint import Releases
from dcam_fast.models.llava.anyres import Anyres, Grid
from dcam_fast.models.text import check_prompt, decode, piece_of, words_of
from dcam_fast.models.unmasking import Plan, even, steps_of_blocks, unmask

View = Literal["grid", "base"]

IMAGE_TOKEN: Final = -200  # stands for the image among the prompt's ids
SYSTEM: Final = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)


@dataclass(frozen=True)
class LlavaInputs(Inputs):
    """``embedded``: ``[1, P, D]``, prompt and image tokens as the first block takes them in."""

    embedded: Tensor


class LlavaAdapter(Adapter[LlavaInputs]):
    """An adapter of a model whose package is called ``llava``."""

    family: str
    transformers = Releases("4.50", "4.56", "the authors' package imports a name that 4.56 took away")
    source: str  # where the package is
    needed: tuple[str, ...]  # the packages that it imports and dcam_fast does not
    ends: tuple[str, ...]  # tokens that end the text
    stops = False  # whether generation ends once all in front of the first of them is written
    default_prompt = "Describe the image in detail."

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str, layers: Any, mask_token: int, answer_length: int, view: View
    ) -> None:
        if view not in get_args(View):
            raise AdapterError(f"{self.family}: view must be one of {', '.join(get_args(View))}, got {view!r}")
        if len(layers) < 2:
            raise AdapterError(f"{self.family}: model must have at least two blocks, got {len(layers)}")
        tower = model.get_vision_tower()
        if tower is None:
            raise AdapterError(
                f"{self.family}: model must have a vision tower (mm_vision_tower in its config), got none"
            )
        model.eval().requires_grad_(False)
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.view = view
        self.layers = layers
        self.mask_token = mask_token
        self.answer_length = answer_length
        self.device = next(model.parameters()).device
        self.num_layers = len(layers)
        self.default_layers = (min(self.num_layers - 2, self.num_layers * 2 // 3),)
        self.anyres = Anyres.from_config(model.config, tower.image_size, tower.config.patch_size)
        self._end_tokens = tuple(tokenizer.convert_tokens_to_ids(end) for end in self.ends)

    # ------------------------------------------------------------------------------------------------------- encoding

    @torch.no_grad()
    def encode(self, image: NDArray[np.uint8], prompt: str) -> LlavaInputs:
        tower = self.model.get_vision_tower()
        h, w = image.shape[:2]
        grids = [self.anyres.grid((w, h), side) for side in _sides(tower.num_patches_per_side)]
        tokens = self._tokenize(prompt)
        tiles = importlib.import_module("llava.mm_utils").process_images(
            [Image.fromarray(image)], tower.image_processor, self.model.config
        )[0]
        projector = next(self.model.get_model().mm_projector.parameters())  # the tower answers in its input's dtype
        tiles = tiles.to(projector)
        prepared = self.model.prepare_inputs_labels_for_multimodal(
            tokens[None], None, None, None, None, [tiles], ["image"], image_sizes=[(w, h)]
        )
        embedded = prepared[4]
        grid = self._grid_of(grids, embedded.shape[1] - len(tokens) + 1)
        views = self.anyres.views((w, h), grid, int((tokens == IMAGE_TOKEN).nonzero()), self.device)
        side = min(self.anyres.resized((w, h)))
        if self.view == "base":
            views, side = (views[1], views[0]), self.anyres.tile
        return LlavaInputs(image=image, prompt=prompt, views=views, side=side, embedded=embedded)

    def _tokenize(self, prompt: str) -> Tensor:
        chat = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"<image>\n{prompt}"}]
        try:
            text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        except ValueError as error:
            raise AdapterError(f"{self.family}: tokenizer must have a chat template, got {error}") from error
        utils = importlib.import_module("llava.mm_utils")
        tokens: Tensor = utils.tokenizer_image_token(text, self.tokenizer, IMAGE_TOKEN, return_tensors="pt")
        count = int((tokens == IMAGE_TOKEN).sum())
        if count != 1:
            raise AdapterError(f"{self.family}: prompt must leave '<image>' to the chat template, got {count} of them")
        own = {self.mask_token: str(piece_of(self.tokenizer, self.mask_token))}
        check_prompt(self.family, prompt, tokens.tolist(), own)
        return tokens.to(self.device)

    def _grid_of(self, grids: list[Grid], count: int) -> Grid:
        """Whether the tower's grids are pooled is the authors' code's to say: the number of tokens tells."""
        for grid in grids:
            if grid.tokens == count:
                return grid
        expected = " or ".join(str(grid.tokens) for grid in grids)
        raise AdapterError(
            f"{self.family}: the image must be {expected} tokens long, got {count}: the configuration tiles or cuts it "
            "in a way that is not known here"
        )

    # ----------------------------------------------------------------------------------------------------- generation

    def generate(self, inputs: LlavaInputs, steps: int | None = None, block_length: int | None = None) -> Trajectory:
        (finished,) = deque(self.denoise(inputs, steps, block_length), maxlen=1)
        return finished

    def denoise(
        self, inputs: LlavaInputs, steps: int | None = None, block_length: int | None = None
    ) -> Iterator[Trajectory]:
        length = self.answer_length
        size = length if block_length is None else block_length
        each = steps_of_blocks(length, self.default_steps if steps is None else steps, size)
        plan = Plan(
            length=length,
            block_length=size,
            counts=self.schedule(size, each),
            mask_token=self.mask_token,
            ends=self._end_tokens,
            stops=self.stops,
            lead=0 if self.has_two_streams else inputs.embedded.shape[1],
        )
        return unmask(self.reader(inputs), plan, self.device)

    @property
    def default_steps(self) -> int:
        """Denoising steps of an answer unless the caller says otherwise."""
        return self.answer_length

    def schedule(self, tokens: int, steps: int) -> tuple[int, ...]:
        """How many of a block's ``tokens`` each of its ``steps`` writes."""
        return even(tokens, steps)

    def reader(self, inputs: LlavaInputs) -> Callable[[Tensor], Tensor]:
        """From a canvas, int64 ``[L]``, to the logits of all its positions, float32 ``[L, V]``, as generation reads
        them."""
        rows = torch.arange(self.answer_length, device=self.device)[None]

        def read(canvas: Tensor) -> Tensor:
            hidden = self.embed(inputs, canvas[None])
            for index in range(self.num_layers):
                hidden = self.layer(index, hidden, inputs)
            return self.logits(hidden, rows, inputs)[0]

        return read

    def answer_rows(self, hidden: Hidden, rows: Tensor) -> Tensor:
        """The hidden states ``[C, R, D]`` of answer positions ``rows``, int64 ``[C, R]``."""
        answer = hidden.image[:, -self.answer_length :] if hidden.canvas is None else hidden.canvas
        return answer.gather(1, rows[..., None].expand(-1, -1, answer.shape[-1]))

    def layer_module(self, index: int) -> nn.Module:
        return cast(nn.Module, self.layers[index])

    # ----------------------------------------------------------------------------------------------------------- text

    def words(self, trajectory: Trajectory) -> tuple[Word, ...]:
        return words_of(self.tokenizer, trajectory.tokens[: trajectory.length])

    def decode(self, tokens: Tensor) -> str:
        return decode(self.tokenizer, tokens)


def _sides(patches: int) -> tuple[int, int]:
    """Cells along a tile, pooled by two and not."""
    return -(-patches // 2), patches
