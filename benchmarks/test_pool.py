"""Pooling beside a plain copy of the same bytes: how much of the memory bandwidth it reaches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dcam_fast import ops, reference

CELLS, CHANNELS = 729, 4096
BUFFERS = 24  # rotating, 12 MB a pair: none of them is in a cache when its turn comes


def make_buffers() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(2, CELLS, CHANNELS, generator=generator).bfloat16()
    return [(first[0].clone(), first[1:].clone()) for _ in range(BUFFERS)]


def rotate(buffers: list[Any]) -> Any:
    state = {"next": 0}

    def take() -> tuple[tuple[Any, ...], dict[str, Any]]:
        state["next"] = (state["next"] + 1) % len(buffers)
        return tuple(buffers[state["next"]]), {}

    return take


@pytest.mark.parametrize("threads", [1, 0])
def test_copy(benchmark: Any, threads: int) -> None:
    """Reads and writes as many bytes as `pool` reads: half of them each."""
    buffers = [(torch.empty_like(a), a) for a, _ in make_buffers()]
    label(benchmark, threads, "copy of as many bytes")
    benchmark.extra_info["bytes"] = 2 * CELLS * CHANNELS * 2
    with Threads(threads):
        benchmark.pedantic(lambda to, source: to.copy_(source), setup=rotate(buffers), rounds=300, warmup_rounds=30)


@pytest.mark.parametrize("threads", [1, 0])
@pytest.mark.parametrize("aggregation", ["elementwise", "pooled"])
def test_pool(benchmark: Any, aggregation: str, threads: int) -> None:
    buffers = make_buffers()
    label(benchmark, threads, f"pool, {aggregation}")
    benchmark.extra_info["bytes"] = 2 * CELLS * CHANNELS * 2
    exact = reference.pool(*(t.double() for t in buffers[0]), aggregation=aggregation)
    torch.testing.assert_close(ops.pool(*buffers[0], aggregation=aggregation), exact.float(), rtol=0, atol=2e-5)
    with Threads(threads):
        benchmark.pedantic(
            lambda a, g: ops.pool(a, g, aggregation=aggregation), setup=rotate(buffers), rounds=300, warmup_rounds=30
        )


class Threads:
    """torch's threads for a while; 0 leaves them all."""

    def __init__(self, count: int) -> None:
        self.count = count or torch.get_num_threads()

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        torch.set_num_threads(self.count)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.before)


def label(benchmark: Any, threads: int, name: str) -> None:
    benchmark.group = f"pool N={CELLS} D={CHANNELS} bf16, {'one core' if threads == 1 else 'all cores'}"
    benchmark.extra_info["label"] = name
