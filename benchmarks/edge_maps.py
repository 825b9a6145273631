"""Edge cases for kernels: exact zeros of both signs, ties, negative values, subnormals, constant maps, spikes.

Used by the tests of all ops and backends, the correctness check of the benchmarks and tools/fuzz.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def _sparse(rng: np.random.Generator, u: Array) -> Array:
    return np.where(u > 0.95, u, 0.0)


def _spike(rng: np.random.Generator, u: Array) -> Array:
    return np.where(u == u.max(), 1.0, 0.0)


def _rectangle(rng: np.random.Generator, u: Array) -> Array:
    """One rectangle of distinct values on zeros."""
    top, left = (int(rng.integers(0, size)) for size in u.shape)
    out = np.zeros_like(u)
    part = out[top : top + 4, left : left + 4]
    part[:] = np.linspace(0.5, 1, part.size).reshape(part.shape)
    return out


def _signed_zeros(rng: np.random.Generator, u: Array) -> Array:
    return np.where(u > 0.9, u, np.where(u > 0.5, 0.0, -0.0))


def _subnormals(rng: np.random.Generator, u: Array) -> Array:
    """A few normal values among subnormals of both signs and zeros."""
    return np.where(u > 0.8, u, np.where(u > 0.4, (u - 0.6) * 1e-39, 0.0))


KINDS: Final[dict[str, Callable[[np.random.Generator, Array], Array]]] = {
    "dense": lambda rng, u: u**3,
    "sparse": _sparse,
    "spike": _spike,
    "rectangle": _rectangle,
    "half zeros": lambda rng, u: np.where(u > 0.5, u, 0.0),
    "signed zeros": _signed_zeros,
    "negative zeros": lambda rng, u: np.full_like(u, -0.0),
    "zeros": lambda rng, u: np.zeros_like(u),
    "constant": lambda rng, u: np.full_like(u, rng.random()),
    "negative constant": lambda rng, u: np.full_like(u, -rng.random()),
    "ties": lambda rng, u: np.floor(u * 4) / 4,
    "binary": lambda rng, u: np.round(u),
    "signed": lambda rng, u: u - 0.5,
    "sparse signed": lambda rng, u: np.where(np.abs(u - 0.5) > 0.45, u - 0.5, 0.0),
    "negative": lambda rng, u: -u,
    "one positive": lambda rng, u: np.where(u == u.max(), 1.0, -u),
    "subnormals": _subnormals,
    "only subnormals": lambda rng, u: (u - 0.3) * 1e-39,
    "one step apart": lambda rng, u: 1 + np.floor(u * 3) * 2.0**-23,
    "outlier": lambda rng, u: np.where(u == u.max(), 1e6, u),
    "large": lambda rng, u: u * 1e15,
    "small": lambda rng, u: u * 1e-15,
}


def edge_map(kind: str, rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """One float32 map [height, width] of a kind of `KINDS`."""
    return KINDS[kind](rng, rng.random((height, width))).astype(np.float32)


def edge_maps(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """One map of every kind, float32 [kinds, height, width]."""
    return np.stack([edge_map(kind, rng, height, width) for kind in KINDS])
