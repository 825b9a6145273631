"""What LaViDa and LLaDA-V share: both are LLaVA (arXiv 2304.08485) around LLaDA (arXiv 2502.09992).

The official code computes the input of layer 0: tiles, vision tower, projector, newlines. The adapters run the official
layers on it. There are two views: `"grid"`, the tiles put together, and `"base"`, the whole photo resized to one tile.
The grid is the default, because it has more cells and keeps the photo's proportions.

Both models come with a package named `llava` and have the `model_type` llava_llada. So one process can hold only one of
them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from dcam_fast.models.adapter import DEFAULT_GENERATION, AdapterError, Inputs, Trajectory
from dcam_fast.models.checkpoint import Releases
from dcam_fast.models.generation import Generation
from dcam_fast.models.given import AnswerFormat
from dcam_fast.models.llava.anyres import Anyres, Grid
from dcam_fast.models.pretrained import MaskedAdapter
from dcam_fast.models.text import check_prompt, piece_of
from dcam_fast.models.unmasking import UnmaskingSchedule, even_schedule, steps_per_block, unmask

View = Literal["grid", "base"]

IMAGE_TOKEN: Final = -200  # the image's placeholder among the prompt's ids
SYSTEM: Final = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)


@dataclass(frozen=True)
class LlavaInputs(Inputs):
    """What the layers need.

    Attributes:
        embedded: `[1, P, D]`, prompt and image tokens at the input of layer 0.
    """

    embedded: Tensor


class LlavaAdapter(MaskedAdapter[LlavaInputs]):
    """An adapter of a model whose package is called `llava`.

    Attributes:
        transformers: the supported releases.
        architecture: of the checkpoint's config.json, and the name of the model's class.
        source: address of the official code.
        requirements: packages that the official code imports and dcam_fast does not.
        end_tokens: tokens that end the text, the end of the turn last.
        stops_at_end: whether generation ends once all positions before the first of them are unmasked.
        embedding: of the tokens.
    """

    transformers = Releases("4.50", "4.56", "the authors' package imports a name that 4.56 removed")
    architecture: str
    source: str
    requirements: tuple[str, ...]
    end_tokens: tuple[str, ...]
    stops_at_end = False
    embedding: nn.Embedding
    default_prompt = "Describe the image in detail."

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str, layers: Any, mask_token: int, answer_length: int, view: View
    ) -> None:
        """
        Args:
            model: of the official code.
            tokenizer: the checkpoint's, with its chat template.
            name: shown in results.
            layers: the model's transformer layers.
            mask_token: id of the mask token.
            answer_length: tokens in an answer.
            view: the default view.

        Raises:
            AdapterError: for another view, or a model without a vision tower or with another tiling.
        """
        self.check_view(view)
        tower = model.get_vision_tower()
        if tower is None:
            raise AdapterError(
                f"{self.family}: model must have a vision tower (mm_vision_tower in its config), got none"
            )
        super().__init__(model, tokenizer, name=name, layers=layers)
        self.view = view
        self.mask_token = mask_token
        self.answer_length = answer_length
        self.anyres = Anyres.from_config(model.config, tower.image_size, tower.config.patch_size)
        self._end_ids = tuple(tokenizer.convert_tokens_to_ids(end) for end in self.end_tokens)

    @classmethod
    def check_view(cls, view: str | None) -> None:
        """Checks the default view before a model is loaded. None stands for the default.

        Raises:
            AdapterError: for another view.
        """
        if view is not None and view not in get_args(View):
            raise AdapterError(f"{cls.family}: view must be {' or '.join(get_args(View))}, got {view!r}")

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
        projector = next(self.model.get_model().mm_projector.parameters())  # the tower's output has its input's dtype
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
        reserved = {self.mask_token: str(piece_of(self.tokenizer, self.mask_token))}
        check_prompt(self.family, prompt, tokens.tolist(), reserved)
        return tokens.to(self.device)

    def _grid_of(self, grids: list[Grid], count: int) -> Grid:
        """The grid that has `count` tokens: the official code decides whether the tower's grids are pooled."""
        for grid in grids:
            if grid.tokens == count:
                return grid
        expected = " or ".join(str(grid.tokens) for grid in grids)
        raise AdapterError(
            f"{self.family}: image must be {expected} tokens long, got {count}: the configuration tiles or crops it in "
            "a way that is not supported"
        )

    # ----------------------------------------------------------------------------------------------------- generation

    def denoise(self, inputs: LlavaInputs, generation: Generation = DEFAULT_GENERATION) -> Iterator[Trajectory]:
        length = self.answer_length
        size = length if generation.block_length is None else generation.block_length
        steps = self.default_steps if generation.steps is None else generation.steps
        block_steps = steps_per_block(length, steps, size)
        schedule = UnmaskingSchedule(
            length=length,
            block_length=size,
            num_to_unmask=self.num_to_unmask(size, block_steps),
            mask_token=self.mask_token,
            end_tokens=self._end_ids,
            stops_at_end=self.stops_at_end,
            num_leading=0 if self.has_two_streams else inputs.embedded.shape[1],
        )
        return unmask(self.logits_fn(inputs), schedule, generation, self.device)

    @property
    def answer_format(self) -> AnswerFormat:
        """The end of the turn, then masks where generation stops there, else end tokens of a text, as trained."""
        return AnswerFormat(
            length=self.answer_length,
            num_tokens=self.embedding.num_embeddings,
            mask_token=self.mask_token,
            end_tokens=self._end_ids,
            end=self._end_ids[-1],
            padding=self.mask_token if self.stops_at_end else self._end_ids[0],
        )

    @property
    def default_steps(self) -> int:
        """Denoising steps of an answer unless the caller chooses."""
        return self.answer_length

    def num_to_unmask(self, tokens: int, steps: int) -> tuple[int, ...]:
        """How many of a block's `tokens` each of its `steps` unmasks."""
        return even_schedule(tokens, steps)


def _sides(patches: int) -> tuple[int, int]:
    """Cells along a tile, with and without 2 x 2 pooling."""
    return -(-patches // 2), patches
