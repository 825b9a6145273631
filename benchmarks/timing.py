"""How it is measured: interleaved rounds, cold and warm caches, medians and spread, and the machine's two limits."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

SAMPLE_S = 100e-6  # minimum length of a warm sample on a CPU; shorter calls are repeated
MIN_SAMPLES = 3
LONG_S = 0.1  # a longer call is estimated by its first run alone


@dataclass(frozen=True)
class Statistics:
    """Seconds a call: median, 10th and 90th percentile, over `samples` timings."""

    median: float
    p10: float
    p90: float
    samples: int

    @classmethod
    def from_seconds(cls, seconds: Sequence[float]) -> Statistics:
        """Percentiles interpolate linearly.

        Raises:
            ValueError: There are no timings.

        >>> Statistics.from_seconds([1.0, 2.0, 3.0]).median
        2.0
        """
        if not seconds:
            raise ValueError("Statistics.from_seconds: seconds must hold at least one timing, got none")
        if len(seconds) == 1:
            return cls(seconds[0], seconds[0], seconds[0], 1)
        tenths = statistics.quantiles(seconds, n=10, method="inclusive")
        return cls(statistics.median(seconds), tenths[0], tenths[-1], len(seconds))


def cache_bytes(device: str) -> int:
    """Size of the last-level cache (the L2 of a GPU); 64 MiB where the system does not say."""
    if device != "cpu":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    units = {"K": 2**10, "M": 2**20}
    known = [int(size[:-1]) * units[size[-1]] for size in sizes if size and size[-1] in units]
    return max(known, default=64 * 2**20)


class Timer:
    """Times samples of a call, with a cold or a warm cache."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._sweep = torch.zeros(2 * cache_bytes(device), dtype=torch.uint8, device=device)

    def flush(self) -> None:
        """Empties the cache by writing twice its size."""
        self._sweep.add_(1)

    def sample(self, call: Callable[[], object], calls: int, cold: bool) -> float:
        """Seconds a call. A cold sample is one call; a warm one the mean of `calls`."""
        if cold:
            self.flush()
            calls = 1
        if self.device == "cpu":
            start = time.perf_counter()
            for _ in range(calls):
                call()
            return (time.perf_counter() - start) / calls
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        for _ in range(calls):
            call()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3 / calls


def schedule(counts: Sequence[int]) -> list[list[int]]:
    """Rounds of indices into `counts`: each as often as its count, spread evenly, in rotating order."""
    rounds = max(counts, default=0)
    plan = []
    for r in range(rounds):
        due = [i for i, n in enumerate(counts) if (r + 1) * n // rounds > r * n // rounds]
        shift = r % max(len(due), 1)
        plan.append(due[shift:] + due[:shift])
    return plan


def measure(
    timer: Timer,
    calls: Sequence[Callable[[], object]],
    *,
    cold: bool,
    budget_s: float,
    max_samples: int,
    min_samples: int = 5,
) -> list[Statistics]:
    """Times calls in turns, so that they share the machine's noise.

    Args:
        timer: measures single samples.
        calls: what to time.
        cold: empty the cache before each sample.
        budget_s: seconds for all calls together. Once they have passed, calls with `MIN_SAMPLES` timings stop.
        max_samples: maximum number of timings of a call.
        min_samples: number of timings of a call where they fit into a second; otherwise `MIN_SAMPLES`.

    Returns:
        The statistics of each call.
    """
    counts, repeats = [], []
    overhead = timer.sample(timer.flush, 1, False) if cold else 0.0
    for call in calls:
        estimate = timer.sample(call, 1, False)  # this warms up too
        if estimate < LONG_S:
            estimate = min(estimate, timer.sample(call, 1, False))
        repeats.append(max(1, min(1000, math.ceil(SAMPLE_S / max(estimate, 1e-7)))))
        sample_s = estimate * (1 if cold else repeats[-1]) + overhead
        floor = min_samples if sample_s * min_samples <= 1 else MIN_SAMPLES
        counts.append(max(floor, min(max_samples, int(budget_s / len(calls) / max(sample_s, 1e-7)))))
    seconds: list[list[float]] = [[] for _ in calls]
    ends = time.monotonic() + budget_s
    for order in schedule(counts):
        late = time.monotonic() > ends
        for i in order:
            if not late or len(seconds[i]) < MIN_SAMPLES:
                seconds[i].append(timer.sample(calls[i], repeats[i], cold))
    return [Statistics.from_seconds(timings) for timings in seconds]


@dataclass(frozen=True)
class Limits:
    """Limits of the machine, measured in the same run.

    Attributes:
        bytes_per_s: bytes that a large copy reads and writes per second.
        operations_per_s: float32 operations of a large matrix product per second; a fused multiply-add is two.
    """

    bytes_per_s: float
    operations_per_s: float

    def floor(self, work: tuple[float, float]) -> float:
        """Minimum seconds for `(bytes, operations)`: the longer of the two.

        >>> Limits(bytes_per_s=100, operations_per_s=10).floor((100, 50))
        5.0
        """
        return max(work[0] / self.bytes_per_s, work[1] / self.operations_per_s)


def measure_limits(timer: Timer) -> Limits:
    """Measures both limits; medians."""
    size = 4 * cache_bytes(timer.device)
    source = torch.zeros(size, dtype=torch.uint8, device=timer.device)
    target = torch.empty_like(source)
    side = 1024 if timer.device == "cpu" else 8192
    a = torch.randn(side, side, device=timer.device)
    copied = measure(timer, [lambda: target.copy_(source)], cold=False, budget_s=0.5, max_samples=50)[0]
    product = measure(timer, [lambda: torch.mm(a, a)], cold=False, budget_s=0.5, max_samples=50)[0]
    return Limits(2 * size / copied.median, 2 * side**3 / product.median)
