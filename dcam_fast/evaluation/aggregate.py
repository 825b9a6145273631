"""Means over words with bootstrap intervals over images, because the words of one image are not independent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dcam_fast.evaluation.registry import METRICS

RESAMPLES = 1000
LEVEL = 0.95
_BATCH = 100  # resamples in memory


@dataclass(frozen=True)
class Estimate:
    """The `value` over `count` words, and its bootstrap interval from `low` to `high`."""

    value: float
    low: float
    high: float
    count: int


class Aggregate:
    """Collects metrics image by image and estimates the mean of each over all words, or the median where the metric
    says so.

    Example:
        >>> aggregate = Aggregate()
        >>> aggregate.update({"pointing": [1.0, 0.0]})
        >>> aggregate.update({"pointing": [1.0, 1.0]})
        >>> aggregate.compute()["pointing"]
        Estimate(value=0.75, low=0.5, high=1.0, count=4)
    """

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}
        self._images: dict[str, list[int]] = {}
        self._count = 0

    def update(self, metrics: Mapping[str, Sequence[float]]) -> None:
        """Adds one image: for each metric, the values of its words (any number)."""
        for name, values in metrics.items():
            self._values.setdefault(name, []).extend(values)
            self._images.setdefault(name, []).extend([self._count] * len(values))
        self._count += 1

    def compute(self, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Estimate]:
        """The estimate of each metric that has a value.

        A bootstrap resample draws as many images as there are, with replacement and with all their words. The interval
        holds the middle `LEVEL` of the resampled estimates.
        """
        rng = np.random.default_rng(seed)
        weights = rng.multinomial(self._count, [1 / self._count] * self._count, resamples) if self._count else None
        estimates = {}
        for name, values in self._values.items():
            if not values or weights is None:
                continue
            array, images = np.array(values), np.array(self._images[name])
            statistic = _medians if name in METRICS and METRICS[name].median else _means
            whole = statistic(array, np.ones((1, len(array))))[0]
            resampled = [
                statistic(array, weights[start : start + _BATCH, images].astype(float))
                for start in range(0, resamples, _BATCH)
            ]
            drawn = np.concatenate(resampled)
            low, high = np.quantile(drawn[np.isfinite(drawn)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            estimates[name] = Estimate(float(whole), float(low), float(high), len(array))
        return estimates


def _means(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted means, one for each row of `weights` `[R, n]`; NaN where a resample has no value."""
    total = weights.sum(1)
    return np.divide(weights @ values, total, out=np.full(len(weights), np.nan), where=total > 0)


def _medians(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted medians: midway between the two middle values where half the weight is on either side."""
    order = values.argsort()
    ordered, below = values[order], weights[:, order].cumsum(1)
    half = below[:, -1:] / 2
    low, high = (below < half).sum(1), (below <= half).sum(1)
    last = len(values) - 1
    medians = (ordered[low.clip(max=last)] + ordered[high.clip(max=last)]) / 2
    return np.where(half[:, 0] > 0, medians, np.nan)
