"""What needs no GPU of the graph cache: which calls share a graph, and which graph has to go."""

from __future__ import annotations

import pytest
import torch

from dcam_fast.ops.graphs import LRU, layout


def test_lru():
    cache, made = LRU(2), []

    def get(key):
        return cache.get(key, lambda: made.append(key) or f"value of {key}")

    assert [get(key) for key in "abab"] == [f"value of {key}" for key in "abab"]
    assert made == ["a", "b"]
    get("a")
    get("c")
    assert len(cache) == 2
    assert ("a" in cache, "b" in cache, "c" in cache) == (True, False, True)
    get("b")
    assert made == ["a", "b", "c", "b"]


def test_lru_failure():
    """What cannot be made leaves the others as they are, and is tried again."""
    cache = LRU(1)
    cache.get("a", lambda: 1)
    with pytest.raises(RuntimeError):
        cache.get("b", lambda: (_ for _ in ()).throw(RuntimeError("no memory")))
    assert "a" in cache
    assert cache.get("b", lambda: 2) == 2


def test_lru_size():
    with pytest.raises(ValueError, match=r"^LRU: size must be at least 1, got 0$"):
        LRU(0)


def test_layout():
    base = torch.empty(2, 3)
    same = torch.ones(2, 3)
    others = [torch.empty(3, 2), base.double(), torch.empty(2, 3, device="meta"), None]
    assert layout(base) == layout(same)
    assert len({layout(base), *map(layout, others)}) == 5
