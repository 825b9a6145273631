"""Words and pixels of the embedded model: a word-level tokenizer and an image processor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor

from dcam_fast import scenes
from dcam_fast.models.tiny.layers import CELL
from dcam_fast.scenes.textures import PHOTOGRAPHIC, TEXTURES

SPECIAL = ("<pad>", "<mask>", "<eos>", "<unk>")
WORDS = (
    *("a", "and", ",", "on", "background", "the", "is", "describe", "image", "what", "color", "object", "objects"),
    *("how", "many", "?", "there", "no"),
)
VOCABULARY = (
    *(*SPECIAL, *WORDS, *scenes.SHAPES, *scenes.COLORS, *scenes.SIZES, *TEXTURES, *scenes.NUMBERS, *PHOTOGRAPHIC),
    *("left", "right", "of"),
)
PAD, MASK, EOS, UNKNOWN = range(len(SPECIAL))
TOKENIZER: Final = "tokenizer.json"


def build_tokenizer() -> Tokenizer:
    """The tokenizer of the embedded model: one token for each lower-case word or punctuation mark."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def encode_words(words: tuple[str, ...] | list[str], length: int, fill: int) -> list[int]:
    """Token ids of words of the vocabulary, padded with `fill` to `length`."""
    ids = [VOCABULARY.index(word) for word in words]
    return ids + [fill] * (length - len(ids))


def to_pixel_values(images: NDArray[np.uint8]) -> Tensor:
    """From uint8 `[B, H, W, 3]` to float32 `[B, 3, H, W]` in -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


@dataclass(frozen=True)
class TinyImageProcessor:
    """Resizes any RGB image to the canvas of the model, whose sides are multiples of a cell.

    Attributes:
        longest: pixels of the longer side.
        shortest: minimum pixels of the shorter side, so that a narrow image still has several rows of cells.

    Example:
        >>> TinyImageProcessor()(np.zeros((480, 640, 3), np.uint8)).shape
        torch.Size([1, 3, 96, 128])
    """

    longest: int = scenes.CANVAS
    shortest: int = 48

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) in pixels that an image of `height` by `width` is resized to."""
        scale = self.longest / max(height, width)
        rows, columns = (
            min(self.longest, max(self.shortest, CELL * round(side * scale / CELL))) for side in (height, width)
        )
        return rows, columns

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """From an image uint8 `[H, W, 3]` to float32 `[1, 3, h, w]` in -1..1."""
        height, width = self.canvas(*image.shape[:2])
        pil = Image.fromarray(image)
        if pil.size != (width, height):
            pil = pil.resize((width, height), Image.Resampling.BOX)
        return to_pixel_values(np.array(pil)[None])
