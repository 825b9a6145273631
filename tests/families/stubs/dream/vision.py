"""The vision tower of the stubs: patches in Qwen's order, the four of a cell one after another, attention among
all of them, and a cell made of its four. Windows and positions, which the authors' towers have, are left out: no
adapter sees them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TowerAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(len(x), 3, self.heads, -1).permute(1, 2, 0, 3)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(0, 1).reshape(x.shape))


class TowerBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = TowerAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Tower(nn.Module):
    """Pixels `[4 h w, 3 * 2 * 14 * 14]` of one image to cells `[h w, out]`."""

    def __init__(self, config: object, width: int, out: int) -> None:
        super().__init__()
        self.cell = config.spatial_merge_size**2
        self.patch_embed = nn.Linear(3 * config.temporal_patch_size * config.patch_size**2, width, bias=False)
        self.blocks = nn.ModuleList(TowerBlock(width, config.num_heads) for _ in range(config.depth))
        self.merger = nn.Sequential(nn.LayerNorm(self.cell * width), nn.Linear(self.cell * width, out))

    def forward(self, pixels: Tensor, grid_thw: Tensor) -> Tensor:
        if len(pixels) != int(grid_thw.prod()):
            raise ValueError(f"pixels must be {int(grid_thw.prod())} patches, got {len(pixels)}")
        x = self.patch_embed(pixels)
        for block in self.blocks:
            x = block(x)
        return self.merger(x.view(len(x) // self.cell, -1))


def cell_positions(tokens: Tensor, grid: Tensor, merge: int, image: int, start: int) -> Tensor:
    """Positions `[3, 1, S]` of `tokens`, `[1, S]`, by time, row and column: one after another, but of an image
    that a mark `start` announces all at one time, and what follows continues from its longer side. Without the
    mark an image is text."""
    marks = (tokens[0, :-1] == start) & (tokens[0, 1:] == image)
    count = tokens.shape[1]
    if not bool(marks.any()):
        return torch.arange(count, device=tokens.device).expand(3, 1, -1)
    first = int(marks.nonzero()[0]) + 1
    h, w = (int(side) // merge for side in grid[0, 1:])
    cells = torch.stack((torch.zeros(h * w), torch.arange(h).repeat_interleave(w), torch.arange(w).repeat(h)))
    following = torch.arange(count - first - h * w) + first + max(h, w)
    positions = torch.cat((torch.arange(first).expand(3, -1), cells + first, following.expand(3, -1)), 1)
    return positions.long().to(tokens.device)[:, None]
