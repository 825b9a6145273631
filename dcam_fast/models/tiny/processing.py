"""Words and pixels of the embedded model: a word-level tokenizer and an image processor, both as transformers has
them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerFast
from transformers.image_processing_base import ImageProcessingMixin

from dcam_fast.models.tiny import scenes
from dcam_fast.models.tiny.modeling import CELL
from dcam_fast.models.tiny.textures import PHOTOGRAPHIC, TEXTURES

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


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the embedded model: one token a word, lower case, punctuation on its own."""
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", mask_token="<mask>", eos_token="<eos>", unk_token="<unk>"
    )


def encode_words(words: tuple[str, ...] | list[str], length: int, fill: int) -> list[int]:
    """Token ids of known words, filled up to ``length``."""
    ids = [VOCABULARY.index(word) for word in words]
    return ids + [fill] * (length - len(ids))


def to_pixel_values(images: NDArray[np.uint8]) -> Tensor:
    """``uint8[B, H, W, 3]`` to ``float32[B, 3, H, W]`` in -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


class TinyImageProcessor(ImageProcessingMixin):
    """Any RGB image to the model's canvas: the longest side becomes 128 px, and both sides a whole number of cells.

    The shorter side keeps at least ``shortest`` px, so that a strip of an image still has a few rows of cells.
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values"]

    def __init__(self, longest: int = scenes.CANVAS, shortest: int = 48, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.longest = longest
        self.shortest = shortest

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) in pixels that an image of ``height`` by ``width`` is resized to."""
        scale = self.longest / max(height, width)
        rows, columns = (
            min(self.longest, max(self.shortest, CELL * round(side * scale / CELL))) for side in (height, width)
        )
        return rows, columns

    def __call__(self, images: NDArray[np.uint8] | list[NDArray[np.uint8]]) -> BatchFeature:
        """``pixel_values``, float32 ``[B, 3, h, w]`` in -1..1, of images ``uint8[H, W, 3]`` that share a size."""
        batch = [images] if isinstance(images, np.ndarray) and images.ndim == 3 else images
        resized = []
        for image in batch:
            height, width = self.canvas(*image.shape[:2])
            pil = Image.fromarray(image)
            resized.append(
                np.asarray(pil if pil.size == (width, height) else pil.resize((width, height), Image.Resampling.BOX))
            )
        return BatchFeature({"pixel_values": to_pixel_values(np.stack(resized))})
