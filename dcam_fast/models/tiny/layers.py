"""The embedded model's sizes and layers: vision tower and transformer layer."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcam_fast.models.adapter import AdapterError, rows_at

CELL: Final = 8  # pixels, the side of one grid cell


@dataclass(frozen=True)
class TinyConfig:
    """Sizes of the model; `grid` is the maximum number of cells along a side of the image."""

    model_type: ClassVar[str] = "dcam_tiny"
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
        q, k, v = self._heads(x)
        scale = self.head_size**-0.5
        return _rotate(self.norm_query(q), rotary) * scale, _rotate(self.norm_key(k), rotary), v

    def context(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values alone, for rows whose output nothing reads."""
        _, k, v = self._heads(x)
        return _rotate(self.norm_key(k), rotary), v

    def _heads(self, x: Tensor) -> Tensor:
        qkv: Tensor = self.qkv(self.norm_attention(x))
        return qkv.unflatten(-1, (3, self.heads, self.head_size)).permute(2, 0, 3, 1, 4)

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

    def extend(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        keys: Tensor,
        values: Tensor,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Runs the layer on a canvas that attends to a cached prefix.

        Args:
            x: `[B, L, D]`, the canvas.
            rotary: cosines and sines of its positions.
            keys: `[B, heads, P, head_size]` of the prefix, or `[1, ...]` for one prefix.
            values: like the keys.
            rows: int64 `[B, R]`, the rows of the canvas whose output is computed (None: all).
        """
        q, k, v = self.project(x, rotary)
        if rows is not None:
            x, q = rows_at(x, rows), q.take_along_dim(rows[:, None, :, None], 2)
        keys, values = (cached.expand(len(x), -1, -1, -1) for cached in (keys, values))
        return self.finish(x, attend(q, torch.cat((keys, k), 2), torch.cat((values, v), 2)))
