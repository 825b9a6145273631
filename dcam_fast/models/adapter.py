"""What the rest of the package needs to know about a diffusion multimodal LLM, and all it knows.

An adapter runs its model one layer at a time. So the attribution can keep the hidden states it wants, start the graph
where it wants, and needs no hooks that would have to be taken out again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dcam_fast.images import cell_colors
from dcam_fast.modes import own_modes
from dcam_fast.words import Word as Word  # part of the interface

NO_MASK: Final = -1  # the mask token of a family that has none and denoises uniform noise
OPEN: Final = torch.iinfo(torch.int64).max  # the step of a token that is not committed yet: later than any


class AdapterError(ValueError):
    """A request that the model's structure does not allow."""


@dataclass(frozen=True)
class ImageView:
    """One grid of cells over the image.

    Attributes:
        name: ``"image"``, or the view's name where a model sees several (``"base"``, ``"grid"``).
        cells: int64 ``[h, w]``, the row of ``Hidden.image`` that holds each cell. Never a range: newlines, tiles and
            interleaving are the adapter's own affair.
        boxes: float32 ``[h, w, 4]``, the pixels (x0, y0, x1, y1) of the original image that each cell covers.
    """

    name: str
    cells: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Inputs:
    """An image and a prompt as an adapter has encoded them; each adapter extends it with what its layers need.

    Attributes:
        image: uint8 ``[H, W, 3]``, the original.
        prompt: the text.
        views: the grids over the image, the one to explain by default first.
        side: shorter side in pixels of the image as the model takes it in, after its own resizing.
    """

    image: NDArray[np.uint8]
    prompt: str
    views: tuple[ImageView, ...]
    side: int

    @cached_property
    def colors(self) -> Tensor:
        """Mean color of each cell of the view to explain by default, float32 ``[3, h, w]`` in 0..1, on its device."""
        boxes = self.views[0].boxes
        return cell_colors(self.image, boxes).to(boxes.device)


@dataclass(frozen=True)
class Trajectory:
    """How an answer came about; while it is being generated, how it has come about so far.

    Attributes:
        tokens: int64 ``[L]``, the answer.
        steps: int64 ``[L]``, the denoising step, from 0, that committed each token; `OPEN` where none has yet, and then
            the token is no part of the answer.
        length: how many leading positions are text; the others are padding.
        canvases: int64 ``[S, K]``, what the model saw at every step, where that cannot be told from tokens and steps
            (no mask token, tokens that are written over). The first ``L`` of the ``K`` columns are token ids; in the
            others a family may keep what `Adapter.embed` needs besides, 0 for nothing.
    """

    tokens: Tensor
    steps: Tensor
    length: int
    canvases: Tensor | None = None


@dataclass(frozen=True)
class Hidden:
    """Hidden states between two layers, for ``C`` canvases at once.

    Attributes:
        image: ``[C, S, D]``, or ``[1, S, D]`` while it does not depend on the canvas: the stream that holds the image
            cells. With joint attention this is the whole sequence; with a cached prefix it is the prefix.
        canvas: ``[C, L, D]`` where the answer is a stream of its own, else None.
    """

    image: Tensor
    canvas: Tensor | None = None

    def split(self) -> Hidden:
        """The same states with one image stream per canvas, cut from whatever made them and ready to be
        differentiated."""
        image = self.image
        if self.canvas is not None and len(image) != len(self.canvas):
            image = image.expand(len(self.canvas), -1, -1)
        return Hidden(image.detach().requires_grad_(), None if self.canvas is None else self.canvas.detach())


I = TypeVar("I", bound=Inputs)  # noqa: E741


class Adapter(ABC, Generic[I]):
    """One model family. Parameters are frozen; every tensor stays on ``device``."""

    name: str
    device: torch.device
    num_layers: int
    default_layers: tuple[int, ...]
    mask_token: int  # or `NO_MASK`: then every trajectory has its canvases
    default_prompt: str
    has_two_streams = False  # whether `prefix_layer` and `canvas_layer` are there, and so the prefix can run just once
    small: bool = False  # whether layers take microseconds on a CPU: torch then runs them on one thread
    causal: bool = False  # whether answer tokens see only earlier ones

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """What users call themselves does not depend on their torch modes."""
        super().__init_subclass__(**kwargs)
        for name in ("__init__", "encode", "generate"):
            if name in vars(cls):
                setattr(cls, name, own_modes()(vars(cls)[name]))

    @abstractmethod
    def encode(self, image: NDArray[np.uint8], prompt: str) -> I:
        """Image ``uint8[H, W, 3]`` and prompt, encoded. Raises AdapterError for a prompt the model cannot read."""

    @abstractmethod
    def generate(self, inputs: I, steps: int | None = None, block_length: int | None = None) -> Trajectory:
        """An answer and how it came about: ``steps`` denoising steps, blocks of ``block_length`` tokens (None: the
        model's own default)."""

    def denoise(self, inputs: I, steps: int | None = None, block_length: int | None = None) -> Iterator[Trajectory]:
        """The same answer as it comes about: the trajectory so far after every denoising step, the finished one last.

        A token stays what it is, where it is, for as long as its step stays the same. A family that takes tokens back
        (`NO_MASK`) may open a committed position again, or commit it at another step.

        Raises AdapterError where the model's own generation cannot be stepped.
        """
        raise AdapterError(f"stream: model must be one that generates step by step, got {self.name}")

    @abstractmethod
    def embed(self, inputs: I, canvases: Tensor) -> Hidden:
        """What goes into layer 0, for canvases ``int64[C, L]``, or ``[C, K]`` where trajectories have some."""

    @abstractmethod
    def layer(self, index: int, hidden: Hidden, inputs: I) -> Hidden:
        """Layer ``index`` of ``num_layers``, with the attention topology of the generation. The last layer need not
        compute the image stream where nothing reads it."""

    def prefix_layer(self, index: int, image: Tensor, inputs: I) -> tuple[Tensor, Any]:
        """The image stream's part of `layer` where the canvas is a stream of its own: ``[C, S, D]`` to the same behind
        the layer, and what the canvas reads of it there (keys and values). Not asked for unless `has_two_streams`."""
        raise NotImplementedError

    def canvas_layer(self, index: int, canvas: Tensor, context: Any, inputs: I) -> Tensor:
        """The canvas's part: ``[C, L, D]`` to the same behind the layer, given the context of ``prefix_layer``, of as
        many canvases or of one for all."""
        raise NotImplementedError

    @abstractmethod
    def logits(self, hidden: Hidden, rows: Tensor, inputs: I) -> Tensor:
        """Float32 logits ``[C, R, V]`` behind the last layer for answer positions ``rows``, ``int64[C, R]``."""

    @abstractmethod
    def words(self, trajectory: Trajectory) -> tuple[Word, ...]:
        """The words of the answer, in order; padding left out."""

    @abstractmethod
    def decode(self, tokens: Tensor) -> str:
        """Token ids ``int64[n]`` as text."""

    def image_logits(self, hidden: Hidden, cells: Tensor, tokens: Tensor, inputs: I) -> Tensor:
        """Float32 logits ``[C, N, K]`` of ``tokens``, int64 ``[K]``, at rows ``cells``, int64 ``[N]``, of the image
        stream, through the LM head; ``hidden`` is in front of the last layer, which runs here with its image stream.

        Raises AdapterError for a family that has none.
        """
        raise AdapterError(f"image_logits: model must read logits at the image's positions, got {self.name}")

    def batched(self, inputs: Sequence[I]) -> Iterator[tuple[I, slice]]:
        """The inputs, of images of one size and one prompt, joined as far as the family runs several images at once,
        each with the part of the sequence that it holds. A joined input of ``B`` images takes ``B`` canvases, one an
        image. Unless a family says otherwise: each alone."""
        for index, one in enumerate(inputs):
            yield one, slice(index, index + 1)

    def layer_module(self, index: int) -> nn.Module:
        """The module of layer ``index``, whose parameters the model-randomization test replaces.

        Raises AdapterError for a family that has none.
        """
        raise AdapterError(f"layer_module: model must have a module for each layer, got {self.name}")

    def check_layers(self, layers: tuple[int, ...]) -> None:
        """Raises AdapterError unless every layer can be explained.

        The last one cannot: the logits are read from the answer's rows behind it, so its image rows have no gradient.
        """
        if not layers:
            raise AdapterError("attribute: layers must be at least one layer, got none")
        if list(layers) != sorted(set(layers)):
            raise AdapterError(f"attribute: layers must be ascending and distinct, got {layers}")
        for layer in layers:
            if not 0 <= layer < self.num_layers - 1:
                reason = (
                    " (no gradient reaches the image behind the last layer)" if layer == self.num_layers - 1 else ""
                )
                raise AdapterError(
                    f"attribute: layer must be 0 to {self.num_layers - 2} for {self.name}, got {layer}{reason}"
                )
