"""`Runs`: the last explanations, kept in memory for their links."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict

from dcam_fast.explanation import Explanation


class Runs:
    """The last explanations by id. An id cannot be guessed, and the oldest explanations leave first.

    Args:
        count: explanations that are kept.
        size: bytes of their images and maps; a larger one alone is not kept.
    """

    def __init__(self, count: int, size: int) -> None:
        self._count, self._size = count, size
        self._kept: OrderedDict[str, Explanation] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, explanation: Explanation) -> str:
        """Keeps an explanation; returns its id."""
        identifier = secrets.token_urlsafe(12)
        with self._lock:
            self._kept[identifier] = explanation
            self._bytes += size_of(explanation)
            while self._kept and (len(self._kept) > self._count or self._bytes > self._size):
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= size_of(oldest)
        return identifier

    def get(self, identifier: str) -> Explanation | None:
        """The explanation of an id, None if it is not or no longer kept."""
        with self._lock:
            return self._kept.get(identifier)


def size_of(explanation: Explanation) -> int:
    """Bytes of an explanation's image and arrays."""
    tensors = (explanation.maps, explanation.raw_maps, explanation.boxes)
    return explanation.image.nbytes + sum(tensor.nbytes for tensor in tensors)
