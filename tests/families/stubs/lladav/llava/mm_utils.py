"""Stub: tiles and tokens, as the package's own module offers them."""

from llava_parts import process_images, tokenizer_image_token

__all__ = ["process_images", "tokenizer_image_token"]
