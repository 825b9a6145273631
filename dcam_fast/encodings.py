"""`EncodingCache`: the encodings of the last images and prompts."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcam_fast.models.adapter import Adapter, Inputs

Key = tuple[bytes, tuple[int, ...], str]


class EncodingCache:
    """Encodes images and prompts, and keeps the last results: what is asked twice is encoded once.

    Args:
        adapter: that encodes.
        size: how many results are kept; 0 for none.

    Raises:
        TypeError: if `size` is not an integer.
        ValueError: if it is negative.

    Example:
        >>> from dcam_fast import sample_image
        >>> from dcam_fast.models import load
        >>> cache = EncodingCache(load("tiny"), 1)
        >>> first = cache.encode(sample_image(), "describe the image")
        >>> cache.encode(sample_image(), "describe the image") is first
        True
    """

    def __init__(self, adapter: Adapter[Any], size: int) -> None:
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"Explainer: encodings must be a whole number from 0, got {size!r}")
        if size < 0:
            raise ValueError(f"Explainer: encodings must be a whole number from 0, got {size!r}")
        self._adapter, self._size = adapter, size
        self._kept: OrderedDict[Key, Inputs] = OrderedDict()
        self._lock = threading.Lock()

    def encode(self, image: NDArray[np.uint8], prompt: str) -> Inputs:
        """The encoding of an image, uint8 `[H, W, 3]`, and a prompt. Raises as `Adapter.encode`."""
        if not self._size:
            return self._adapter.encode(image, prompt)
        key = hashlib.blake2b(image.data, digest_size=32).digest(), image.shape, prompt
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        inputs = self._adapter.encode(image, prompt)
        with self._lock:
            self._kept[key] = inputs
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return inputs
