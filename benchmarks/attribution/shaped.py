"""A model with the shapes of LaViDa-LLaDA-8B (arXiv 2505.16839) and random weights, in plain PyTorch, as an adapter.

The cost of a pass does not depend on the values of the weights. Tests use smaller shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dcam_fast.models.adapter import DEFAULT_GENERATION, Adapter, Hidden, ImageView, Inputs, Trajectory, Word
from dcam_fast.models.generation import Generation


@dataclass(frozen=True)
class Shape:
    """Sizes of the model and of a question.

    The defaults are LaViDa's for an image of 640 x 480 pixels: 14 x 14 cells of the base view, 22 rows of 28 cells and
    a newline, 1,100 tokens in all.
    """

    layers: int = 32
    width: int = 4096
    mlp: int = 12288
    heads: int = 32
    words: int = 126_464
    base: int = 14
    rows: int = 22
    columns: int = 28
    prompt: int = 138
    answer: int = 128
    per_step: int = 2

    @property
    def image(self) -> int:
        return self.base**2 + self.rows * (self.columns + 1)


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.norm_attention, self.norm_mlp = nn.RMSNorm(shape.width, 1e-5), nn.RMSNorm(shape.width, 1e-5)
        self.q, self.k, self.v, self.out = (nn.Linear(shape.width, shape.width, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(shape.width, shape.mlp, bias=False) for _ in range(2))
        self.down = nn.Linear(shape.mlp, shape.width, bias=False)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def project(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x = self.norm_attention(x)
        return _rotate(self._heads(self.q(x)), rotary), _rotate(self._heads(self.k(x)), rotary), self._heads(self.v(x))

    def finish(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y = self.norm_mlp(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def _rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotary
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


class Model(nn.Module):
    """The language model. It takes embedded images and prompts: there is no vision tower."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed = nn.Embedding(shape.words, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, 1e-5)
        self.head = nn.Linear(shape.width, shape.words, bias=False)
        self.requires_grad_(False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.02)
        self.embed.weight.normal_(0, 1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits `[..., V]` of hidden states `[..., D]` at the output of the last layer."""
        return self.head(self.norm(hidden)).float()


@dataclass(frozen=True)
class ShapedInputs(Inputs):
    """Attributes:
    prefix: `[1, P, D]`, the embedded image and prompt.
    rotary: cosines and sines of the whole sequence.
    """

    prefix: Tensor
    rotary: tuple[Tensor, Tensor]

    def rotary_of(self, part: slice) -> tuple[Tensor, Tensor]:
        return self.rotary[0][part], self.rotary[1][part]


class ShapedAdapter(Adapter[ShapedInputs]):
    """Prefix attention, as in LaViDa's generation, or joint. Half of the layers are above the target layer."""

    model: Model
    name = "lavida shapes"
    mask_token = 0
    default_prompt = "describe the image"

    def __init__(
        self,
        shape: Shape,
        attention: Literal["prefix", "joint"] = "prefix",
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        model: Model | None = None,
    ) -> None:
        self.shape, self.attention, self.device, self.dtype = shape, attention, torch.device(device), dtype
        self.has_two_streams = attention == "prefix"
        self.num_layers = shape.layers
        self.default_layers = (shape.layers // 2 - 1,)
        if model is None:
            torch.manual_seed(0)
            default = torch.get_default_dtype()
            try:
                torch.set_default_dtype(dtype)
                with self.device:
                    model = Model(shape)
            finally:
                torch.set_default_dtype(default)
        self.model = model

    def encode(self, image: NDArray[np.uint8], prompt: str) -> ShapedInputs:
        shape = self.shape
        generator = torch.Generator().manual_seed(1)
        prefix = torch.randn(1, shape.image + shape.prompt, shape.width, generator=generator)
        rows, columns = torch.arange(shape.rows)[:, None], torch.arange(shape.columns)
        cells = shape.base**2 + rows * (shape.columns + 1) + columns
        height, width = (side / cells for side, cells in zip(image.shape, cells.shape, strict=False))
        corners = (columns * width, rows * height, (columns + 1) * width, (rows + 1) * height)
        boxes = torch.stack([edge.expand(cells.shape).float() for edge in corners], -1)
        view = ImageView("grid", cells.to(self.device), boxes.to(self.device))
        half = shape.width // shape.heads // 2
        frequencies = 500_000.0 ** (-torch.arange(half) / half)
        angles = torch.arange(prefix.shape[1] + shape.answer)[:, None] * frequencies
        rotary = tuple(table.to(self.device, self.dtype) for table in (angles.cos(), angles.sin()))
        return ShapedInputs(image, prompt, (view,), min(image.shape[:2]), prefix.to(self.device, self.dtype), rotary)  # type: ignore[arg-type]

    def generate(self, inputs: ShapedInputs, generation: Generation = DEFAULT_GENERATION) -> Trajectory:
        """A random answer, `per_step` tokens per step."""
        generator = torch.Generator().manual_seed(2)
        tokens = torch.randint(1, self.shape.words, (self.shape.answer,), generator=generator)
        order = torch.randperm(self.shape.answer, generator=generator)
        return Trajectory(tokens.to(self.device), (order // self.shape.per_step).to(self.device), self.shape.answer)

    def embed(self, inputs: ShapedInputs, canvases: Tensor) -> Hidden:
        canvas = self.model.embed(canvases)
        if self.attention == "prefix":
            return Hidden(inputs.prefix, canvas)
        return Hidden(torch.cat((inputs.prefix.expand(len(canvas), -1, -1), canvas), 1))

    def layer(self, index: int, hidden: Hidden, inputs: ShapedInputs) -> Hidden:
        if hidden.canvas is None:
            layer: Any = self.model.layers[index]
            return Hidden(layer.finish(hidden.image, *layer.project(hidden.image, inputs.rotary)))
        image, context = self.prefix_layer(index, hidden.image, inputs)
        return Hidden(image, self.canvas_layer(index, hidden.canvas, context, inputs))

    def prefix_layer(self, index: int, image: Tensor, inputs: ShapedInputs) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        layer: Any = self.model.layers[index]
        q, k, v = layer.project(image, inputs.rotary_of(slice(image.shape[1])))
        return image if index == self.num_layers - 1 else layer.finish(image, q, k, v), (k, v)

    def canvas_layer(self, index: int, canvas: Tensor, context: tuple[Tensor, Tensor], inputs: ShapedInputs) -> Tensor:
        layer: Any = self.model.layers[index]
        q, k, v = layer.project(canvas, inputs.rotary_of(slice(inputs.prefix.shape[1], None)))
        keys, values = (cached.expand(len(canvas), -1, -1, -1) for cached in context)
        return layer.finish(canvas, q, torch.cat((keys, k), 2), torch.cat((values, v), 2))

    def logits(self, hidden: Hidden, rows: Tensor, inputs: ShapedInputs) -> Tensor:
        canvas = hidden.image[:, -self.shape.answer :] if hidden.canvas is None else hidden.canvas
        return self.model.logits(canvas.gather(1, rows[..., None].expand(-1, -1, canvas.shape[-1])))

    def words(self, trajectory: Trajectory) -> tuple[Word, ...]:
        return tuple(Word(str(position), (position,)) for position in range(trajectory.length))

    def decode(self, tokens: Tensor) -> str:
        return " ".join(map(str, tokens.tolist()))
