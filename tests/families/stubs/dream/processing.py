"""Tokenizer, image processor and processor that the stubs share."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import decoders, pre_tokenizers
from transformers import AutoTokenizer, BatchFeature, PreTrainedTokenizer, ProcessorMixin
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.image_processing_utils import BaseImageProcessor


class ByteTokenizer(PreTrainedTokenizer):
    """A token a byte, and the special ones that tokenizer_config.json names."""

    vocab_files_names = {"vocab_file": "vocab.json"}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self, vocab_file: str, **options: Any) -> None:
        self.ids = json.loads(Path(vocab_file).read_text())
        self.pieces = {index: piece for piece, index in self.ids.items()}
        self.letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        super().__init__(**options)

    @property
    def vocab_size(self) -> int:
        return len(self.ids)

    def get_vocab(self) -> dict[str, int]:
        return {**self.ids, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **_options: Any) -> list[str]:
        return [letter for run, _ in self.letters.pre_tokenize_str(text) for letter in run]

    def _convert_token_to_id(self, token: str) -> int | None:
        return self.ids.get(token)

    def _convert_id_to_token(self, index: int) -> str | None:
        return self.pieces.get(index)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return decoders.ByteLevel().decode(tokens)


class CellImageProcessor(BaseImageProcessor):
    """A photo squashed to whole cells of 28 x 28 pixels, at least `min_pixels` and at most `max_pixels` of them,
    as patches of 14 x 14, the four of a cell one after another."""

    model_input_names = ["pixel_values", "image_grid_thw"]  # noqa: RUF012
    patch_size, merge_size, temporal_patch_size = 14, 2, 2

    def __init__(self, min_pixels: int = 56 * 56, max_pixels: int = 256 * 28 * 28, **options: Any) -> None:
        super().__init__(**options)
        self.min_pixels, self.max_pixels = min_pixels, max_pixels

    def sides(self, h: int, w: int) -> tuple[int, int]:
        """Height and width in cells."""
        cell = self.patch_size * self.merge_size
        if max(h, w) / min(h, w) > 200:
            raise ValueError(f"aspect ratio must be at most 200, got {max(h, w) / min(h, w)}")
        rows, columns = round(h / cell), round(w / cell)
        pixels = rows * columns * cell**2
        if pixels > self.max_pixels:
            over, to_whole = math.sqrt(h * w / self.max_pixels), math.floor
        elif pixels < self.min_pixels:
            over, to_whole = math.sqrt(h * w / self.min_pixels), math.ceil
        else:
            return rows, columns
        return max(to_whole(h / over / cell), 1), max(to_whole(w / over / cell), 1)

    def preprocess(self, images: Any, **_options: Any) -> BatchFeature:
        image = images[0] if isinstance(images, list) else images
        rows, columns = self.sides(image.height, image.width)
        patch, merge, times = self.patch_size, self.merge_size, self.temporal_patch_size
        size = columns * merge * patch, rows * merge * patch
        squashed = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(squashed)).float() / 255
        pixels = pixels.view(rows, merge, patch, columns, merge, patch, 3).permute(0, 3, 1, 4, 6, 2, 5)
        pixels = pixels[..., None, :, :].expand(*pixels.shape[:-2], times, patch, patch)
        grid = torch.tensor([[1, rows * merge, columns * merge]])
        return BatchFeature({"pixel_values": pixels.reshape(int(grid.prod()), -1), "image_grid_thw": grid})


class CellProcessor(ProcessorMixin):
    attributes = ["image_processor", "tokenizer"]  # noqa: RUF012
    image_processor_class = "AutoImageProcessor"
    tokenizer_class = "AutoTokenizer"

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def _get_arguments_from_pretrained(cls, path: Any, *_args: Any, **_options: Any) -> list[Any]:
        """By name, as AutoImageProcessor wants torchvision in some releases, whatever class it is to read."""
        name = json.loads((Path(path) / "preprocessor_config.json").read_text())["auto_map"]["AutoImageProcessor"]
        image_class = get_class_from_dynamic_module(name, path, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=True)
        return [image_class.from_pretrained(path, local_files_only=True), tokenizer]

    def __call__(self, *, text: list[str], images: list[Image.Image], return_tensors: str) -> BatchFeature:
        recorded = self.image_processor(images)
        count = int(recorded["image_grid_thw"].prod()) // self.image_processor.merge_size**2
        written = [part.replace("<|image_pad|>", "<|image_pad|>" * count) for part in text]
        encoded = self.tokenizer(written, return_tensors=return_tensors)
        return BatchFeature({**encoded, **recorded})
