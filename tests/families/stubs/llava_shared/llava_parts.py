"""What the stubs of LaViDa and LLaDA-V share: tiles of a photo on a canvas, a tower whose patches do not see each
other, and the image's tokens in the place that a prompt leaves for them."""

from __future__ import annotations

import math
import re

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

TILE, PATCH = 384, 14


def canvases_of(pinpoints: object) -> list[tuple[int, int]]:
    if isinstance(pinpoints, str):
        ends = re.findall(r"\d+", pinpoints)
        low, high = int(ends[0]), int(ends[-1])
        return [(TILE * i, TILE * j) for i in range(low, high + 1) for j in range(low, high + 1)]
    return [tuple(pair) for pair in pinpoints]


def canvas_for(size: tuple[int, int], pinpoints: object) -> tuple[int, int]:
    """The canvas that wastes least of those that keep most pixels; of equal ones the first."""
    best, best_kept, best_wasted = None, -1, math.inf
    for w, h in canvases_of(pinpoints):
        scale = min(w / size[0], h / size[1])
        kept = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        wasted = w * h - kept
        if kept > best_kept or (kept == best_kept and wasted < best_wasted):
            best, best_kept, best_wasted = (w, h), kept, wasted
    return best


def pixels(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1


def process_images(pictures: list[Image.Image], _processor: object, config: object) -> list[Tensor]:
    """The whole photo in a tile, then the tiles of its canvas, row by row: `[1 + tiles, 3, 384, 384]` of each."""
    out = []
    for picture in pictures:
        width, height = canvas_for(picture.size, config.image_grid_pinpoints)
        w, h = picture.size
        if width / w < height / h:
            fitted = (width, min(math.ceil(h * (width / w)), height))
        else:
            fitted = (min(math.ceil(w * (height / h)), width), height)
        canvas = Image.new("RGB", (width, height))
        canvas.paste(picture.resize(fitted), ((width - fitted[0]) // 2, (height - fitted[1]) // 2))
        boxes = [(x, y, x + TILE, y + TILE) for y in range(0, height, TILE) for x in range(0, width, TILE)]
        out.append(torch.stack([pixels(picture.resize((TILE, TILE))), *(pixels(canvas.crop(box)) for box in boxes)]))
    return out


def tokenizer_image_token(prompt: str, tokenizer: object, image: int, return_tensors: str) -> Tensor:
    first, *others = (tokenizer(part, add_special_tokens=False).input_ids for part in prompt.split("<image>"))
    ids = list(first)
    for part in others:
        ids += [image, *part]
    return torch.tensor(ids)


class TowerConfig:
    patch_size = PATCH


class Tower(nn.Module):
    image_size = TILE
    num_patches_per_side = TILE // PATCH
    image_processor = None
    config = TowerConfig()

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, tiles: Tensor) -> Tensor:
        return self.patches(tiles).flatten(2).transpose(1, 2)


class Multimodal:
    """A model with `vision_tower`, `mm_projector` and `image_newline` in `get_model()`."""

    pooled = False

    def get_vision_tower(self) -> Tower:
        return self.get_model().vision_tower

    def prepare_inputs_labels_for_multimodal(
        self, ids, _positions, _mask, _past, _labels, images, _modalities=("image",), image_sizes=None
    ):
        core = self.get_model()
        cells = core.mm_projector(core.vision_tower(images[0]))
        n = core.vision_tower.num_patches_per_side
        cells = cells.unflatten(1, (n, n))
        if self.pooled:
            half = math.ceil(n / 2)
            cells = F.interpolate(cells.permute(0, 3, 1, 2), (half, half), mode="bilinear").permute(0, 2, 3, 1)
        image = torch.cat((cells[0].flatten(0, 1), self.rows(cells[1:], image_sizes[0])))
        table = self.words()
        at = int((ids[0] == -200).nonzero())
        whole = torch.cat((table(ids[0, :at]), image, table(ids[0, at + 1 :])))[None]
        return None, None, None, None, whole, None

    def rows(self, tiles: Tensor, size: tuple[int, int]) -> Tensor:
        """The grid of all tiles, less its margins, and a newline after every row."""
        core, n = self.get_model(), tiles.shape[1]
        width, height = canvas_for(size, self.config.image_grid_pinpoints)
        across, down = width // TILE, height // TILE
        grid = torch.cat([torch.cat(list(tiles[i * across : (i + 1) * across]), 1) for i in range(down)])
        if size[0] / size[1] > across / down:
            margin = (n * down - int(size[1] * (n * across / size[0]))) // 2
            grid = grid[margin : n * down - margin]
        else:
            margin = (n * across - int(size[0] * (n * down / size[1]))) // 2
            grid = grid[:, margin : n * across - margin]
        most = re.fullmatch(r"anyres_max_(\d+)", self.config.image_aspect_ratio)
        if most:
            h, w = grid.shape[:2]
            times = math.sqrt(h * w / (int(most[1]) * n * n))
            if times > 1.1:
                smaller = F.interpolate(
                    grid.permute(2, 0, 1)[None], [int(h // times), int(w // times)], mode="bilinear"
                )
                grid = smaller[0].permute(1, 2, 0)
        newline = core.image_newline.expand(len(grid), 1, -1)
        return torch.cat((grid, newline), 1).flatten(0, 1)


def add_image_parts(core: nn.Module, width: int) -> None:
    core.vision_tower = Tower(width)
    core.mm_projector = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
    core.image_newline = nn.Parameter(torch.randn(width))


def rotate(x: Tensor, first: int = 0) -> Tensor:
    """Rotary positions from `first` on, of `[B, heads, S, d]`."""
    half = x.shape[-1] // 2
    frequency = 10000.0 ** (-torch.arange(half, device=x.device) / half)
    angle = (torch.arange(x.shape[2], device=x.device) + first)[:, None] * frequency
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), -1)


def likeliest(
    logits: Tensor, masked: Tensor, end: int, count: int, before: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """Guesses, and the `count` positions to write of those masked before `end`, in an answer `[L]` after
    `before` positions that are ranked with it and have noise as well."""
    logits = logits.double()
    noise = torch.rand(before + len(logits), logits.shape[1], dtype=torch.float64)[before:] if temperature else None
    guess = (logits if noise is None else logits - temperature * torch.log(-noise.log())).argmax(-1)
    confidence = logits.softmax(-1)[torch.arange(len(guess)), guess]
    rank = torch.where(masked & (torch.arange(len(confidence)) < end), confidence, -torch.inf)
    chosen = torch.cat((torch.full((before,), -torch.inf, dtype=rank.dtype), rank)).topk(count).indices - before
    chosen = chosen[chosen >= 0]
    return guess, chosen[masked[chosen]]
