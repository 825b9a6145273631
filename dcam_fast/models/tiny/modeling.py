"""The embedded diffusion multimodal LLM: convolutional vision tower, MLP projector, bidirectional transformer.

It has 1.8 M parameters and was trained from scratch on `scenes` with the masked-diffusion objective of LLaDA (arXiv
2502.09992). The sequence is `[image cells | prompt | answer canvas]`. One set of weights serves both attention
topologies of diffusion multimodal LLMs:

* `"prefix"`: image and prompt do not attend to the canvas, so they run once and are cached (LaViDa).
* `"joint"`: every token attends to every other, so each denoising step runs the whole sequence (LLaDA-V).
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final, Literal, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dcam_fast.models.adapter import OPEN, AdapterError
from dcam_fast.models.weights import SINGLE, check_files

Attention = Literal["prefix", "joint"]
CELL: Final = 8  # pixels, the side of one grid cell
MODEL_TYPE: Final = "dcam_tiny"
CONFIG: Final = "config.json"


@dataclass(frozen=True)
class TinyConfig:
    """Sizes of the model; `grid` is the maximum number of cells along a side of the image."""

    vocab_size: int = 58
    hidden_size: int = 128
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    intermediate_size: int = 352
    vision_sizes: tuple[int, int] = (64, 128)
    grid: int = 16
    prompt_length: int = 8
    answer_length: int = 36
    mask_token_id: int = 1

    @classmethod
    def from_file(cls, file: Path) -> TinyConfig:
        """Reads the sizes from a config.json.

        Raises:
            AdapterError: where a size is missing or not a positive integer.
        """
        try:
            found = json.loads(file.read_text("utf-8"))
            sizes = {field.name: found[field.name] for field in fields(cls)}
            sizes["vision_sizes"] = tuple(sizes["vision_sizes"])
            numbers = [*sizes["vision_sizes"], *(size for name, size in sizes.items() if name != "vision_sizes")]
            if len(sizes["vision_sizes"]) != 2 or not all(type(size) is int and size > 0 for size in numbers):
                raise ValueError(f"a size that is not a positive integer: {sizes}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AdapterError(f"load: {file} must hold the model's sizes, got {error!r}") from error
        return cls(**sizes)


class RMSNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), 1e-5)


class ConvBlock(nn.Module):
    """Residual 3x3 convolution on `[B, h, w, C]`. The norm is per position, so the block is strictly local."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj(F.gelu(self.conv(self.norm(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))


class VisionTower(nn.Module):
    """From pixels `[B, 3, H, W]` in -1..1 to one vector per 8x8 cell, `[B, H/8, W/8, C]`.

    Row and column embeddings are added.
    """

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        fine, coarse = config.vision_sizes
        self.patch_fine = nn.Conv2d(3, fine, 4, 4)
        self.blocks_fine = nn.Sequential(ConvBlock(fine), ConvBlock(fine))
        self.patch_coarse = nn.Conv2d(fine, coarse, 2, 2)
        self.blocks_coarse = nn.Sequential(ConvBlock(coarse), ConvBlock(coarse))
        self.rows = nn.Parameter(torch.randn(config.grid, coarse) * 0.1)
        self.columns = nn.Parameter(torch.randn(config.grid, coarse) * 0.1)
        self.norm = RMSNorm(coarse)

    def forward(self, pixels: Tensor, offset: tuple[int, int] = (0, 0)) -> Tensor:
        x = self.blocks_fine(self.patch_fine(pixels.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1))
        x = self.blocks_coarse(self.patch_coarse(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        row, column = offset
        x = x + self.rows[row : row + x.shape[1], None] + self.columns[None, column : column + x.shape[2]]
        return self.norm(x)


def rotary_tables(positions: Tensor, head_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines `[N, head_size / 2]` of the rotary position embedding (arXiv 2104.09864)."""
    frequencies = 10000.0 ** (-torch.arange(0, head_size, 2, device=positions.device).float() / head_size)
    angles = positions.float()[:, None] * frequencies
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotary
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Bidirectional attention with queries that are scaled already, `[B, heads, N, head_size]`."""
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)


class TransformerLayer(nn.Module):
    """Pre-norm transformer layer: bidirectional attention with normed queries and keys, then a gated MLP."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.heads, self.head_size = config.num_attention_heads, size // config.num_attention_heads
        self.norm_attention, self.norm_mlp = RMSNorm(size), RMSNorm(size)
        self.norm_query, self.norm_key = RMSNorm(self.head_size), RMSNorm(self.head_size)
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.out = nn.Linear(size, size, bias=False)
        self.up = nn.Linear(size, 2 * config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, size, bias=False)

    def project(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled queries, keys and values, each `[B, heads, N, head_size]`."""
        qkv = self.qkv(self.norm_attention(x)).unflatten(-1, (3, self.heads, self.head_size))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scale = self.head_size**-0.5
        return _rotate(self.norm_query(q), rotary) * scale, _rotate(self.norm_key(k), rotary), v

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The layer's output, given its input `[B, N, D]` and the attention's result `[B, heads, N, head_size]`."""
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        gate, up = self.up(self.norm_mlp(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], prefix: int = 0, groups: int = 1) -> Tensor:
        """Runs the layer on a packed sequence `[prefix | groups of equal length]`.

        The prefix attends to itself, a group to the prefix and itself. Without a prefix, every row attends to every
        other.

        Args:
            x: `[B, N, D]`.
            rotary: cosines and sines of the `N` positions.
            prefix: rows of the prefix.
            groups: number of groups.
        """
        q, k, v = self.project(x, rotary)
        if not prefix:
            return self.finish(x, attend(q, k, v))
        head_k, head_v = k[:, :, :prefix], v[:, :, :prefix]

        def grouped(t: Tensor) -> Tensor:
            return t[:, :, prefix:].unflatten(2, (groups, -1))

        to_prefix = q[:, :, prefix:] @ head_k.transpose(-1, -2)
        to_group = (grouped(q) @ grouped(k).transpose(-1, -2)).flatten(2, 3)
        weights = torch.cat((to_prefix, to_group), -1).softmax(-1)
        canvas = weights[..., :prefix] @ head_v
        canvas = canvas + (weights[..., prefix:].unflatten(2, (groups, -1)) @ grouped(v)).flatten(2, 3)
        return self.finish(x, torch.cat((attend(q[:, :, :prefix], head_k, head_v), canvas), 2))

    def extend(self, x: Tensor, rotary: tuple[Tensor, Tensor], keys: Tensor, values: Tensor) -> Tensor:
        """Runs the layer on a canvas that attends to a cached prefix.

        Args:
            x: `[B, L, D]`, the canvas.
            rotary: cosines and sines of its positions.
            keys: `[B, heads, P, head_size]` of the prefix, or `[1, ...]` for one prefix.
            values: like the keys.
        """
        q, k, v = self.project(x, rotary)
        keys, values = (cached.expand(len(x), -1, -1, -1) for cached in (keys, values))
        return self.finish(x, attend(q, torch.cat((keys, k), 2), torch.cat((values, v), 2)))


@dataclass(frozen=True)
class Generation:
    """Answers and the step that wrote each of their tokens.

    Attributes:
        tokens: int64 `[B, L]`.
        steps: int64 `[B, L]`, from 0; `OPEN` where the position is still masked.
    """

    tokens: Tensor
    steps: Tensor


class TinyForMaskedDiffusion(nn.Module):
    """The whole model: `forward` returns the logits of every canvas position, `generate` an answer with its steps.

    It is plain torch, because importing transformers takes several times as long as explaining an image.
    """

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.vision = VisionTower(config)
        widen, narrow = nn.Linear(config.vision_sizes[1], 2 * size), nn.Linear(2 * size, size)
        self.projector = nn.Sequential(widen, nn.GELU(), narrow)
        self.embed = nn.Embedding(config.vocab_size, size)
        layers = [TransformerLayer(config) for _ in range(config.num_hidden_layers)]
        self.blocks = nn.ModuleList(layers)  # the name in the weight file
        self.norm = RMSNorm(size)
        self.lm_head = nn.Linear(size, config.vocab_size, bias=False)
        residual_std = 0.02 / math.sqrt(2 * config.num_hidden_layers)
        self._initial_std = {linear: residual_std for layer in layers for linear in (layer.out, layer.down)}
        self._initial_std |= {linear: linear.in_features**-0.5 for linear in (widen, narrow)}
        self.apply(self._init_weights)

    @classmethod
    def from_pretrained(cls, path: Path) -> TinyForMaskedDiffusion:
        """Loads the model from a folder that `save_pretrained` wrote, with weights of the dtype in the file.

        Raises:
            AdapterError: for a file that is missing or damaged, or weights that do not match the configuration.
        """
        check_files(path)
        # The initial weights are discarded. The meta device would avoid them, but it imports torch's compiler: seconds.
        with torch.random.fork_rng(devices=[]):
            model = cls(TinyConfig.from_file(path / CONFIG))
        weights, needed = load_file(path / SINGLE), model.state_dict()
        shapes, needed_shapes = (
            {name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (weights, needed)
        )
        wrong = sorted(name for name, _ in shapes.items() ^ needed_shapes.items())
        if wrong:
            raise AdapterError(
                f"load: {path / SINGLE} must hold the weights that {CONFIG} describes, got other or no {wrong[0]}"
            )
        model.load_state_dict(weights, assign=True)
        return model

    def save_pretrained(self, path: Path) -> None:
        """Writes config.json and model.safetensors into a folder, which is created."""
        path.mkdir(parents=True, exist_ok=True)
        config = {"model_type": MODEL_TYPE, **asdict(self.config)}
        (path / CONFIG).write_text(json.dumps(config, indent=1) + "\n", "utf-8")
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, path / SINGLE)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self._initial_std.get(module, 0.02))
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def embed_image(self, pixel_values: Tensor, offset: tuple[int, int] = (0, 0)) -> Tensor:
        """From pixels `[B, 3, H, W]` in -1..1 to cells `[B, H/8 * W/8, D]`, row by row.

        The sides are multiples of 8 and at most 8 * `grid`; `offset` is the row and column of the first cell.
        """
        return self.projector(self.vision(pixel_values, offset)).flatten(1, 2)

    def layers(self) -> list[TransformerLayer]:
        """The transformer layers in order."""
        return cast(list[TransformerLayer], list(self.blocks))

    def rotary(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return rotary_tables(positions, self.config.hidden_size // self.config.num_attention_heads, dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits `[..., V]` of hidden states `[..., D]` at the output of the last layer."""
        return self.lm_head(self.norm(hidden)).float()

    def forward(
        self,
        pixel_values: Tensor,
        prompt: Tensor,
        canvases: Tensor,
        attention: Attention = "prefix",
        offset: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """Logits of `K` independent canvases that share image and prompt.

        With `"prefix"` the canvases are packed into one sequence and do not attend to each other.

        Args:
            pixel_values: float32 `[B, 3, H, W]` in -1..1.
            prompt: int64 `[B, P]`.
            canvases: int64 `[B, K, L]`.
            attention: the topology; `"joint"` takes one canvas.
            offset: row and column of the image's first cell.

        Returns:
            Float32 `[B, K, L, V]`.

        Raises:
            ValueError: for several canvases with joint attention.
        """
        groups, length = canvases.shape[1:]
        if attention == "joint" and groups != 1:
            raise ValueError(f"forward: canvases must be [B, 1, L] with joint attention, got K = {groups}")
        image = self.embed_image(pixel_values, offset)
        x = torch.cat((image, self.embed(prompt).to(image.dtype), self.embed(canvases.flatten(1)).to(image.dtype)), 1)
        prefix = image.shape[1] + prompt.shape[1]
        answer = prefix + torch.arange(length, device=x.device).repeat(groups)
        rotary = self.rotary(torch.cat((torch.arange(prefix, device=x.device), answer)), x.dtype)
        for layer in self.layers():
            x = layer(x, rotary, 0 if attention == "joint" else prefix, groups)
        return self.logits(x[:, prefix:]).unflatten(1, (groups, length))

    def generate(
        self,
        pixel_values: Tensor,
        prompt: Tensor,
        steps: int | None = None,
        block_length: int | None = None,
        attention: Attention = "prefix",
    ) -> Generation:
        """The last answer of `denoise`.

        Args:
            pixel_values: float32 `[B, 3, H, W]` in -1..1.
            prompt: int64 `[B, P]`.
            steps: as in `denoise`.
            block_length: as in `denoise`.
            attention: the topology.

        Raises:
            ValueError: for steps or a block length that do not divide the answer.
        """
        with torch.no_grad():
            image = self.embed_image(pixel_values)
        (finished,) = deque(self.denoise(image, prompt, steps, block_length, attention), maxlen=1)
        return finished

    def denoise(
        self,
        image: Tensor,
        prompt: Tensor,
        steps: int | None = None,
        block_length: int | None = None,
        attention: Attention = "prefix",
    ) -> Iterator[Generation]:
        """Denoises an answer greedily with low-confidence remasking (LLaDA, section 2.4); yields it after every step.

        Every step predicts all masked positions of the current block and unmasks the most confident ones. Blocks are
        denoised from left to right.

        Args:
            image: `[B, N, D]`, from `embed_image`.
            prompt: int64 `[B, P]`.
            steps: denoising steps of the whole answer, a multiple of the number of blocks (None: one token a step).
            block_length: a divisor of the answer's length (None: the whole answer).
            attention: the topology.

        Raises:
            ValueError: for steps or a block length that do not divide the answer.
        """
        length = self.config.answer_length
        block_length = length if block_length is None else block_length
        steps = length if steps is None else steps
        if not 1 <= block_length <= length or length % block_length:
            raise ValueError(f"generate: block_length must be a divisor of {length}, got {block_length}")
        count = length // block_length
        if steps % count or not count <= steps <= length:
            raise ValueError(f"generate: steps must be a multiple of {count} from {count} to {length}, got {steps}")
        with torch.no_grad():
            logits_fn = self._logits_fn(image, prompt, attention)
        canvas = torch.full((len(prompt), length), self.config.mask_token_id, device=prompt.device)
        written = torch.full_like(canvas, OPEN)
        per_block = steps // count
        for step in range(steps):
            block, inner = divmod(step, per_block)
            due, done = (math.ceil(block_length * end / per_block) for end in (inner + 1, inner))
            with torch.no_grad():  # not around the yield: the caller has its own grad mode
                logits = logits_fn(canvas)
                logits[..., self.config.mask_token_id] = -torch.inf
                confidence, tokens = logits.softmax(-1).max(-1)
                confidence = confidence.masked_fill(canvas != self.config.mask_token_id, -1.0)
                confidence[:, : block * block_length] = -1.0
                confidence[:, (block + 1) * block_length :] = -1.0
                chosen = confidence.topk(due - done, 1).indices
                canvas = canvas.scatter(1, chosen, tokens.gather(1, chosen))
                written = written.scatter(1, chosen, step)
            yield Generation(canvas, written)

    def _logits_fn(self, image: Tensor, prompt: Tensor, attention: Attention) -> Callable[[Tensor], Tensor]:
        """A function from canvases, int64 `[B, L]`, to their logits. What does not depend on them runs once."""
        head = torch.cat((image, self.embed(prompt)), 1)
        prefix, length = head.shape[1], self.config.answer_length
        positions = torch.arange(prefix + length, device=head.device)
        if attention == "joint":
            rotary = self.rotary(positions, head.dtype)

            def joint_logits(canvas: Tensor) -> Tensor:
                x = torch.cat((head, self.embed(canvas)), 1)
                for layer in self.layers():
                    x = layer(x, rotary)
                return self.logits(x[:, prefix:])

            return joint_logits
        rotary_head = self.rotary(positions[:prefix], head.dtype)
        rotary_canvas = self.rotary(positions[prefix:], head.dtype)
        cache = []
        for layer in self.layers():
            q, k, v = layer.project(head, rotary_head)
            head = layer.finish(head, attend(q, k, v))
            cache.append((k, v))

        def prefix_logits(canvas: Tensor) -> Tensor:
            x = self.embed(canvas)
            for layer, (keys, values) in zip(self.layers(), cache, strict=True):
                x = layer.extend(x, rotary_canvas, keys, values)
            return self.logits(x)

        return prefix_logits
