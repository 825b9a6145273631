"""Backgrounds of the synthetic scenes: flat patterns, and richer ones closer to photographs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TEXTURES = ("plain", "shaded", "striped", "checkered", "dotted", "noisy")
PHOTOGRAPHIC = ("cloudy", "wooden", "cluttered")
HARD_TEXTURES = (*TEXTURES, *PHOTOGRAPHIC)


def background(rng: np.random.Generator, texture: str, height: int, width: int) -> NDArray[np.float32]:
    """A background of muted colors.

    Args:
        rng: the random generator, which is advanced.
        texture: one of `HARD_TEXTURES`.
        height: in pixels.
        width: in pixels.

    Returns:
        float32 `[height, width, 3]`, about 0 to 255.

    Raises:
        ValueError: for another texture.
    """
    y, x = np.mgrid[:height, :width].astype(np.float32)
    base = (rng.uniform(50, 190) + rng.uniform(-22, 22, 3)).astype(np.float32)
    step = rng.uniform(28, 60) * rng.choice((-1, 1))
    match texture:
        case "plain":
            weight = np.zeros((height, width), np.float32)
        case "shaded":
            angle = rng.uniform(0, 2 * np.pi)
            weight = 2.2 * (np.cos(angle) * (x / width - 0.5) + np.sin(angle) * (y / height - 0.5))
        case "striped":
            angle, period = rng.uniform(0, np.pi), rng.uniform(7, 14)
            weight = (np.cos(angle) * x + np.sin(angle) * y) / period % 1 < 0.5
        case "checkered":
            pitch = int(rng.integers(6, 13))
            dx, dy = rng.integers(0, pitch, 2)
            weight = ((x + dx) // pitch + (y + dy) // pitch) % 2
        case "dotted":
            pitch = int(rng.integers(8, 14))
            dx, dy = rng.integers(0, pitch, 2)
            weight = np.hypot((x + dx) % pitch - pitch / 2, (y + dy) % pitch - pitch / 2) < pitch * 0.27
        case "noisy":
            coarse = rng.standard_normal(((height + 1) // 2, (width + 1) // 2), dtype=np.float32)
            weight = 0.7 * coarse.repeat(2, 0).repeat(2, 1)[:height, :width]
        case "cloudy":
            gray, *channels = (_fractal(rng, height, width) for _ in range(4))
            cloud = 0.5 * gray[..., None] + 0.25 * np.stack(channels, -1)
            return base + np.float32(abs(step)) * cloud.astype(np.float32)
        case "wooden":
            angle, period = rng.uniform(0, np.pi), rng.uniform(4, 9)
            warp = 6 * _fractal(rng, height, width)
            weight = 0.8 * np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y + warp) / period)
            return (
                base * np.asarray([1.15, 1.0, 0.8], np.float32)
                + np.float32(0.5 * step) * weight.astype(np.float32)[..., None]
            )
        case "cluttered":
            return _clutter(rng, base, x, y)
        case _:
            raise ValueError(f"background: texture must be one of {', '.join(HARD_TEXTURES)}, got {texture!r}")
    return base + np.float32(step) * weight.astype(np.float32)[..., None]


def _fractal(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Noise of standard deviation 1 whose amplitude falls with frequency, as in photographs."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequency**1.4
    noise = np.fft.irfft2(spectrum, s=(height, width))
    return (noise / noise.std()).astype(np.float32)


def _clutter(
    rng: np.random.Generator, base: NDArray[np.float32], x: NDArray[np.float32], y: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Overlapping grayish ellipses with soft edges, some larger than any object."""
    height, width = x.shape
    canvas = np.broadcast_to(base, (height, width, 3)).copy()
    for _ in range(int(rng.integers(5, 10))):
        cx, cy, angle = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, np.pi)
        long, short = rng.uniform(10, 40), rng.uniform(6, 22)
        u = np.cos(angle) * (x - cx) + np.sin(angle) * (y - cy)
        v = np.cos(angle) * (y - cy) - np.sin(angle) * (x - cx)
        edge = rng.uniform(0.04, 0.3)
        cover = np.clip((1 - np.hypot(u / long, v / short)) / edge, 0, 1)[..., None]
        tone = (rng.uniform(40, 200) + rng.uniform(-18, 18, 3)).astype(np.float32)
        canvas += cover.astype(np.float32) * (tone - canvas)
    return canvas
