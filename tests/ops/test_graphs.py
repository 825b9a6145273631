"""What needs no GPU of the graph cache: which calls share a graph, and which graph has to go."""

from __future__ import annotations

import copy

import pytest
import torch

from dcam_fast import ops
from dcam_fast.config import DEFAULT, UNGUIDED
from dcam_fast.ops import cuda_graphs as graphs
from dcam_fast.ops.cuda_graphs import LRU, GraphCache, layout


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


class HostRecording:
    """Stands for a captured call on a machine without a GPU: calls what would be captured, over separate buffers."""

    made = 0

    def __init__(self, inputs, grid, run, floats):
        HostRecording.made += 1
        self.inputs = [None if tensor is None else tensor.clone() for tensor in inputs]
        self.out = torch.full((len(inputs[1]), *grid), torch.nan)
        self.run = run

    def replay(self, inputs):
        for buffer, tensor in zip(self.inputs, inputs, strict=True):
            if buffer is not None:
                buffer.copy_(tensor)
        self.run(self.out, None, None, *self.inputs)
        return self.out.clone()


@pytest.fixture
def on_host(monkeypatch):
    """The cache with the CPU's backend in the place of CUDA's."""
    monkeypatch.setattr(graphs, "Recording", HostRecording)
    monkeypatch.setattr(
        graphs, "refine", lambda *args, backend, **options: ops.refine(*args, **options, backend="reference")
    )
    monkeypatch.setattr(torch.cuda, "device", lambda _: torch.no_grad())
    HostRecording.made = 0


@pytest.mark.usefixtures("on_host")
@pytest.mark.parametrize("config", [UNGUIDED, DEFAULT], ids=["unguided", "default"])
def test_refinements_of_a_kind_share_a_graph(config):
    """From the second on; whatever the maps, their image and the answer's repetition are."""
    random, cache = torch.Generator().manual_seed(2), GraphCache()
    for call, ratio in enumerate((0.0, 0.3, 0.1)):
        maps, guide = torch.rand(2, 6, 7, generator=random), torch.rand(3, 6, 7, generator=random)
        options = {"guide": guide if config.needs_guide else None, "image_side": 64.0, "repetition": ratio}
        got = cache.refine(maps, config, **options)
        torch.testing.assert_close(got, ops.refine(maps, config, **options, backend="reference"), rtol=0, atol=1e-6)
        assert HostRecording.made == min(call, 1)
    cache.refine(maps[:1], config, **options)
    assert HostRecording.made == 1
    cache.refine(maps[:1], config, **options)
    assert HostRecording.made == 2
    maps[1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="refine: maps must be finite, got NaN or Inf in map 1"):
        cache.refine(maps, config, **options)
    with pytest.raises(ValueError, match="refine: repetition must be from 0 to 1, got 2"):
        cache.refine(maps[:1], config, **(options | {"repetition": 2}))
    for _ in range(3):
        assert cache.refine(maps[:0], config, **options).shape == (0, 6, 7)
    assert HostRecording.made == 2


def test_a_copy_begins_empty():
    cache = GraphCache(3)
    cache._graphs.get("key", object)
    copied = copy.deepcopy(cache)
    assert (copied._graphs.size, len(copied._graphs)) == (3, 0)


def test_maps_on_the_host_are_not_served():
    assert not GraphCache.serves(torch.zeros(1, 2, 2))
