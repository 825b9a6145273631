"""The interface between a diffusion multimodal LLM and the rest of the package.

An adapter runs its model one layer at a time. The attribution therefore needs no hooks: it keeps the hidden states it
needs and starts the autograd graph where it needs one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dcam_fast.interruption import checked
from dcam_fast.models.boxes import boxes_between as boxes_between  # names imported as themselves: the interface
from dcam_fast.models.boxes import even_boxes as even_boxes
from dcam_fast.models.freezing import frozen, on_frozen_model
from dcam_fast.models.generation import Generation
from dcam_fast.models.given import AnswerFormat, GivenAnswer
from dcam_fast.models.states import Hidden as Hidden
from dcam_fast.models.states import ImageView as ImageView
from dcam_fast.models.states import Inputs as Inputs
from dcam_fast.models.states import rows_at as rows_at
from dcam_fast.models.trajectory import NO_MASK as NO_MASK
from dcam_fast.models.trajectory import OPEN as OPEN
from dcam_fast.models.trajectory import Trajectory as Trajectory
from dcam_fast.torch_modes import own_modes
from dcam_fast.words import Word as Word

DEFAULT_GENERATION: Final = Generation()


class AdapterError(ValueError):
    """A request that the model's structure does not allow."""


def default_layer(num_layers: int) -> int:
    """The target layer of a large model unless the caller chooses one: two thirds up, never the last.

    >>> default_layer(32)
    21
    """
    return min(num_layers - 2, num_layers * 2 // 3)


InputsT = TypeVar("InputsT", bound=Inputs)


class Adapter(ABC, Generic[InputsT]):
    """One model family. Every tensor stays on `device`.

    A family implements `encode`, `denoise` (or `generate`), `embed`, `layer`, `logits`, `words` and `decode`.

    Attributes:
        model: the whole model; None for a family that computes without modules.
        name: shown in results.
        device: of the model and of every tensor.
        num_layers: transformer layers.
        default_layers: the target layers unless the caller chooses some.
        mask_token: id of the mask token, or `NO_MASK`: then every trajectory has its canvases.
        default_prompt: the prompt unless the caller gives one.
        has_two_streams: whether `prefix_layer` and `canvas_layer` are implemented. The prefix then runs only once.
        small: whether a layer takes microseconds on a CPU. torch then runs it on one thread.
        causal: whether answer tokens attend to earlier ones only.
        logit_shift: how many rows before an answer position its logits are read.

    Example:
        >>> from dcam_fast import Generation
        >>> from dcam_fast.models import load
        >>> adapter = load("tiny")
        >>> inputs = adapter.encode(np.zeros((96, 128, 3), np.uint8), "describe the image")
        >>> inputs.views[0]
        ImageView(name='image', cells=int64[12, 16], boxes=float32[12, 16, 4], picture=0)
        >>> trajectory = adapter.generate(inputs, Generation(steps=4))
        >>> hidden = adapter.embed(inputs, trajectory.tokens[None])
        >>> for index in range(adapter.num_layers):
        ...     hidden = adapter.layer(index, hidden, inputs)
        >>> adapter.logits(hidden, torch.tensor([[0, 1]]), inputs).shape
        torch.Size([1, 2, 58])
    """

    model: nn.Module | None = None
    name: str
    device: torch.device
    num_layers: int
    default_layers: tuple[int, ...]
    mask_token: int
    default_prompt: str
    has_two_streams = False
    small: bool = False
    causal: bool = False
    logit_shift: int = 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Runs what users call directly in torch's default modes and on a frozen model, whatever the caller has set."""
        super().__init_subclass__(**kwargs)
        for name in ("__init__", "given"):
            if name in vars(cls):
                setattr(cls, name, own_modes()(vars(cls)[name]))
        for name in ("encode", "generate"):
            if name in vars(cls):
                setattr(cls, name, on_frozen_model(vars(cls)[name]))

    def frozen(self) -> AbstractContextManager[None]:
        """A context in which the model is in evaluation mode and no parameter requires gradients. Whatever runs the
        model's layers opens it. The model is as it was afterwards; see `dcam_fast.models.freezing.frozen`."""
        return nullcontext() if self.model is None else frozen(self.model)

    @abstractmethod
    def encode(self, image: NDArray[np.uint8], prompt: str) -> InputsT:
        """Encodes an image, uint8 `[H, W, 3]`, and a prompt.

        Raises:
            AdapterError: for an image or a prompt that the model cannot process.
        """

    @on_frozen_model
    def generate(self, inputs: InputsT, generation: Generation = DEFAULT_GENERATION) -> Trajectory:
        """Generates an answer: the last trajectory of `denoise`, unless a family overrides it.

        Args:
            inputs: from `encode`.
            generation: how.

        Raises:
            AdapterError: for options that the family does not support.
        """
        (finished,) = deque(checked(self.denoise(inputs, generation)), maxlen=1)
        return finished

    def generate_many(self, inputs: Sequence[InputsT], generation: Generation = DEFAULT_GENERATION) -> list[Trajectory]:
        """The answers of `generate` to several inputs. The default generates one after another.

        A family may generate them together. Then matrix products may round differently, and where two tokens are
        nearly equally likely, an answer may differ.

        Args:
            inputs: from `encode`.
            generation: how.

        Raises:
            AdapterError: for options that the family does not support.
        """
        return [self.generate(item, generation) for item in inputs]

    def denoise(self, inputs: InputsT, generation: Generation = DEFAULT_GENERATION) -> Iterator[Trajectory]:
        """Yields the trajectory so far after every denoising step; the last one is the finished answer.

        The token at a position does not change while the position's step does not. A family without a mask token
        (`NO_MASK`) may mark a position as open again or give it a later step.

        Args:
            inputs: from `encode`.
            generation: how.

        Raises:
            AdapterError: where the model's generation cannot be stepped.
        """
        raise AdapterError(f"stream: model must be one that generates step by step, got {self.name}")

    @property
    def answer_format(self) -> AnswerFormat:
        """What a finished answer looks like on the canvas. `given` needs it.

        Raises:
            AdapterError: for a family that explains generated answers only.
        """
        raise AdapterError(f"explain: answer must be None for a model that only explains its own, got {self.name}")

    def encode_answer(self, text: str) -> list[int]:
        """Token ids of the text of an answer, without an end token, as generation would write it.

        Raises:
            AdapterError: for a family that cannot encode text.
        """
        raise AdapterError(f"explain: answer must be token ids for a model that encodes no text, got {self.name}")

    @own_modes()
    def given(
        self, tokens: Sequence[int], steps: Sequence[int] | None = None, generation: Generation = DEFAULT_GENERATION
    ) -> Trajectory:
        """The trajectory of an answer that another engine wrote, as if `generate` had returned it.

        Args:
            tokens: ids of the text, with or without its end token, or of the whole canvas.
            steps: the denoising step that wrote each of them. None: unknown.
            generation: its seed is that of the noise of a family without a mask token.

        Raises:
            ValueError: for an answer that the model cannot have written.
        """
        answer = GivenAnswer(tuple(tokens), None if steps is None else tuple(steps))
        return self.answer_format.trajectory(answer, self.device)

    @abstractmethod
    def embed(self, inputs: InputsT, canvases: Tensor) -> Hidden:
        """The input of layer 0 for canvases, int64 `[C, L]`, or `[C, K]` where trajectories have canvases."""

    def layer(self, index: int, hidden: Hidden, inputs: InputsT) -> Hidden:
        """Runs layer `index` with the generation's attention topology; the default runs `prefix_layer` and
        `canvas_layer`. Nothing reads the image at the output of the last layer: it need not compute the image stream,
        and where the answer is no separate stream, it may return the answer's rows alone.

        Raises:
            AdapterError: where the canvas is not a separate stream and the family does not override this.
        """
        if hidden.canvas is None:
            raise AdapterError("layer: hidden must have a canvas stream, got none")
        image, context = self.prefix_layer(index, hidden.image, inputs)
        return Hidden(image, self.canvas_layer(index, hidden.canvas, context, inputs))

    def prefix_layer(self, index: int, image: Tensor, inputs: InputsT) -> tuple[Tensor, Any]:
        """The image stream's part of a layer with two streams (`has_two_streams`).

        Returns:
            The stream at the layer's output, `[C, S, D]`, and what the canvas reads of it (keys and values).
        """
        raise NotImplementedError

    def canvas_layer(self, index: int, canvas: Tensor, context: Any, inputs: InputsT) -> Tensor:
        """The canvas stream's part of a layer with two streams, `[C, L, D]` to `[C, L, D]`.

        Args:
            index: of the layer.
            canvas: the stream at the layer's input.
            context: from `prefix_layer`, for each of the `C` canvases or one for all.
            inputs: from `encode`.
        """
        raise NotImplementedError

    @abstractmethod
    def logits(self, hidden: Hidden, rows: Tensor, inputs: InputsT) -> Tensor:
        """Float32 logits `[C, R, V]` at the output of the last layer, for answer positions `rows`, int64 `[C, R]`."""

    def answer_logits(self, hidden: Hidden, rows: Tensor, inputs: InputsT) -> Tensor:
        """The `logits` at `rows`, from the states at the input of the last layer; a family may compute them alone."""
        return self.logits(self.layer(self.num_layers - 1, hidden, inputs), rows, inputs)

    @abstractmethod
    def words(self, trajectory: Trajectory) -> tuple[Word, ...]:
        """The words of the answer, in order, without padding and masks."""

    @abstractmethod
    def decode(self, tokens: Tensor) -> str:
        """Token ids, int64 `[n]`, as text."""

    def image_logits(self, hidden: Hidden, cells: Tensor, tokens: Tensor, inputs: InputsT) -> Tensor:
        """Logits at image cells, through the last layer and the LM head.

        Args:
            hidden: the states at the input of the last layer.
            cells: int64 `[N]`, rows of the image stream.
            tokens: int64 `[K]`, the token ids to score.
            inputs: from `encode`.

        Returns:
            Float32 `[C, N, K]`.

        Raises:
            AdapterError: for a family whose image stream has no logits.
        """
        raise AdapterError(f"image_logits: model must read logits at the image's positions, got {self.name}")

    def prompt_rows(self, inputs: InputsT, count: int) -> Tensor:
        """The rows of the image stream that hold the prompt, int64 `[n]`: those that hold no image.

        Args:
            inputs: from `encode`.
            count: rows of the stream before the answer. The last `logit_shift` of them are read for the answer and
                belong to it.
        """
        is_prompt = torch.ones(count, dtype=torch.bool, device=self.device)
        is_prompt[inputs.image_rows] = False
        is_prompt[count - self.logit_shift :] = False
        return is_prompt.nonzero()[:, 0]

    def batched(self, inputs: Sequence[InputsT]) -> Iterator[tuple[InputsT, slice]]:
        """Joins inputs of one image size and one prompt, as far as the family runs several images at once.

        Yields each joined input with the part of the sequence that it holds. A joined input of `B` images takes `B`
        canvases, one for each image. The default joins nothing.
        """
        for index, item in enumerate(inputs):
            yield item, slice(index, index + 1)

    def layer_module(self, index: int) -> nn.Module:
        """The module of layer `index`, whose parameters the model-randomization test replaces.

        Raises:
            AdapterError: for a family that has no such module.
        """
        raise AdapterError(f"layer_module: model must have a module for each layer, got {self.name}")

    def check_layers(self, layers: tuple[int, ...]) -> None:
        """Checks that every layer can be a target layer.

        The last one cannot: the logits are read from the answer's rows at its output, so no gradient reaches its image
        rows.

        Raises:
            AdapterError: for layers that are out of range, not ascending, or the last one.
        """
        if not layers:
            raise AdapterError("check_layers: layers must be at least one layer, got none")
        if list(layers) != sorted(set(layers)):
            raise AdapterError(f"check_layers: layers must be ascending and distinct, got {layers}")
        last = self.num_layers - 1
        for layer in layers:
            if not 0 <= layer < last:
                reason = " (no gradient reaches the image at the output of the last layer)" if layer == last else ""
                raise AdapterError(f"check_layers: layer must be 0 to {last - 1} for {self.name}, got {layer}{reason}")
