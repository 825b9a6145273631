"""CUDA graphs of the benchmarks, with stubs for what torch does on a GPU."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dcam_fast.benchmarks import implementations as bench
from dcam_fast.benchmarks.implementations import UnavailableError, captured, implementations
from dcam_fast.benchmarks.op_cases import all_cases, make_inputs

DEFAULT_STREAM = "default"


class Streams:
    """torch's streams: a capture without a stream takes that of the first device, and one that fails keeps it."""

    def __init__(self, fails: bool) -> None:
        self.current, self.fails, self.captured_on = DEFAULT_STREAM, fails, None

    def make(self, device=None):
        return SimpleNamespace(device=device, wait_stream=lambda other: None)

    def current_stream(self, device=None):
        return SimpleNamespace(wait_stream=lambda other: None)

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def graph(self, graph, stream=None):
        before = self.current
        self.captured_on = self.current = stream or SimpleNamespace(device=torch.device("cuda:0"))
        yield
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        self.current = before


@pytest.fixture(params=[False, True], ids=["captured", "fails"])
def streams(request, monkeypatch) -> Streams:
    streams = Streams(request.param)
    monkeypatch.setattr(torch.cuda, "Stream", streams.make)
    monkeypatch.setattr(torch.cuda, "current_stream", streams.current_stream)
    monkeypatch.setattr(torch.cuda, "stream", streams.stream)
    monkeypatch.setattr(torch.cuda, "graph", streams.graph)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
    return streams


def test_a_capture_leaves_the_stream_as_it_was(streams):
    """And records on the device of its tensors, also where another was used first."""
    device = torch.device("cuda:1")
    if streams.fails:
        with pytest.raises(UnavailableError, match=r"^cannot be captured in a graph: operation not permitted[^\n]*$"):
            captured(lambda: torch.zeros(1), device)
    else:
        assert captured(lambda: torch.zeros(1), device)().tolist() == [0]
    assert streams.current == DEFAULT_STREAM
    assert streams.captured_on.device == device


class ReadsResults(TorchDispatchMode):
    """Whether a call reads a result on the host, for which it would wait for a GPU."""

    found = False

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.found |= op.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
        return op(*args, **(kwargs or {}))


def test_no_graph_is_tried_of_calls_that_read_results():
    small, tried = {}, {True: [], False: []}
    for case in all_cases("cuda"):
        small[case.op, case.variant] = case, replace(case, grid=(6, 7), targets=2, channels=min(case.channels, 8))
    for case, reduced in small.values():
        if reduced.op == "overlay":
            reduced = replace(reduced, image=(12, 14))
        call = bench._eager_call(reduced, make_inputs(reduced, "cpu"))
        with ReadsResults() as mode:
            call()
        names = [item.name for item in implementations(case, "cuda", [], compiled=False)]
        tried["PyTorch eager, CUDA graph" in names].append(mode.found)
    assert any(tried[False])
    assert tried[True]
    assert not any(tried[True])
