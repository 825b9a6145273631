"""Synthetic scenes with captions, questions and one ground-truth mask per object: the embedded model's whole world.

A scene is a textured background with one to four objects (shape, colour, size) that do not overlap. Its caption lists
the objects from left to right, so that there is exactly one right answer::

    a small pink circle , a large yellow ring and a ... on a shaded background

Only NumPy is used, and every scene is a pure function of the generator it is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "moon")
COLORS = {
    "red": (222, 42, 42),
    "orange": (246, 142, 28),
    "yellow": (244, 222, 52),
    "green": (48, 172, 66),
    "cyan": (56, 205, 214),
    "blue": (44, 82, 222),
    "purple": (140, 52, 190),
    "pink": (250, 132, 186),
}
SIZES = ("small", "large")
RADII = {"small": (10, 13), "large": (18, 23)}  # circumradius in pixels, inclusive
TEXTURES = ("plain", "shaded", "striped", "checkered", "dotted", "noisy")
NUMBERS = ("one", "two", "three", "four")
MAX_OBJECTS = len(NUMBERS)
CANVAS = 128  # pixels, the side of a full scene

CAPTION_PROMPT = "describe the image"
QUESTIONS = ("color", "absent", "object", "count", "background")


@dataclass(frozen=True)
class SceneObject:
    """One object: what its words are, where it is (pixels) and which pixels are its own (``bool[H, W]``)."""

    shape: str
    color: str
    size: str
    x: int
    y: int
    radius: int
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """An image (``uint8[H, W, 3]``), the name of its background texture and its objects from left to right."""

    image: NDArray[np.uint8]
    background: str
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True)
class Dialogue:
    """A prompt, the one right answer, and for each word of the answer the index of the object it names (-1: none)."""

    prompt: str
    answer: tuple[str, ...]
    owners: tuple[int, ...]


@cache
def _sprite(shape: str, radius: int, turns: int) -> NDArray[np.float32]:
    """Anti-aliased coverage of a shape, ``float32[2r + 3, 2r + 3]``, turned by ``turns`` times 15 degrees."""
    supersampling, side = 4, 2 * radius + 3
    axis = ((np.arange(side * supersampling) + 0.5) / supersampling - side / 2) / radius
    x, y = np.meshgrid(axis, axis)
    angle = np.deg2rad(15.0 * turns)
    x, y = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    rho, theta = np.hypot(x, y), np.arctan2(x, -y)  # theta 0 points up
    match shape:
        case "circle":
            inside = rho < 0.95
        case "ring":
            inside = (rho < 1.0) & (rho > 0.55)
        case "square":
            inside = np.maximum(abs(x), abs(y)) < 0.80
        case "triangle":
            sector = (theta + np.pi / 3) % (2 * np.pi / 3) - np.pi / 3
            inside = rho * np.cos(np.pi / 3 - abs(sector)) < 0.55
        case "star":
            sector = abs((theta + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
            notch_x, notch_y = 0.45 * np.cos(np.pi / 5), 0.45 * np.sin(np.pi / 5)
            inside = (1 - rho * np.cos(sector)) * notch_y > rho * np.sin(sector) * (1 - notch_x)
        case "cross":
            inside = (abs(x) < 0.30) & (abs(y) < 0.95) | (abs(y) < 0.30) & (abs(x) < 0.95)
        case "heart":
            u, v = x * 1.2, 0.05 - y * 1.2
            inside = (u * u + v * v - 1) ** 3 < u * u * v**3
        case "moon":
            inside = (rho < 1.0) & (np.hypot(x - 0.50, y + 0.15) > 0.78)
        case _:
            raise ValueError(f"scenes: shape must be one of {', '.join(SHAPES)}, got {shape!r}")
    return inside.reshape(side, supersampling, side, supersampling).mean((1, 3)).astype(np.float32)


def _background(rng: np.random.Generator, texture: str, height: int, width: int) -> NDArray[np.float32]:
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
        case _:  # noisy
            coarse = rng.standard_normal(((height + 1) // 2, (width + 1) // 2), dtype=np.float32)
            weight = 0.7 * coarse.repeat(2, 0).repeat(2, 1)[:height, :width]
    return base + np.float32(step) * weight.astype(np.float32)[..., None]


def _paint(
    rng: np.random.Generator, canvas: NDArray[np.float32], shape: str, color: str, x: int, y: int, radius: int
) -> NDArray[np.bool_]:
    """Paints one object over ``canvas`` in place, in one of three surface styles that no caption names; returns its
    mask."""
    height, width = canvas.shape[:2]
    coverage = _sprite(shape, radius, 0 if shape in ("circle", "ring") else int(rng.integers(-1, 2)))
    top, left = y - radius - 1, x - radius - 1
    rows = slice(max(top, 0), min(top + len(coverage), height))
    columns = slice(max(left, 0), min(left + len(coverage), width))
    coverage = coverage[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    ink = np.asarray(COLORS[color], np.float32) + rng.uniform(-10, 10, 3).astype(np.float32)
    shade = np.ones_like(coverage)
    style = rng.integers(3)
    if style:
        yy, xx = np.mgrid[: coverage.shape[0], : coverage.shape[1]].astype(np.float32)
        angle = rng.uniform(0, 2 * np.pi)
        ramp = np.cos(angle) * xx + np.sin(angle) * yy
        shade = 1 + 0.22 * (ramp - ramp.mean()) / radius if style == 1 else 1 - 0.16 * (ramp / 5 % 1 < 0.5)
    region = canvas[rows, columns]
    region += coverage[..., None] * (ink * shade.astype(np.float32)[..., None] - region)
    mask = np.zeros((height, width), bool)
    mask[rows, columns] = coverage > 0.5
    return mask


def _place(rng: np.random.Generator, height: int, width: int, count: int) -> list[tuple[str, str, str, int, int, int]]:
    """Up to ``count`` objects (shape, color, size, x, y, radius), pairwise distinct in shape and colour, not touching,
    and at least one grid cell (8 px) apart from left to right, so that the order of the caption can be seen."""
    placed: list[tuple[str, str, str, int, int, int]] = []
    for _ in range(count):
        for _attempt in range(40):
            size = SIZES[rng.integers(2)]
            low, high = RADII[size]
            radius = int(rng.integers(low, high + 1))
            x, y = int(rng.integers(radius + 1, width - radius - 1)), int(rng.integers(radius + 1, height - radius - 1))
            shape, color = SHAPES[rng.integers(len(SHAPES))], tuple(COLORS)[rng.integers(len(COLORS))]
            apart = all(
                abs(x - ox) >= 8
                and np.hypot(x - ox, y - oy) >= radius + oradius + 2
                and (shape, color) != (oshape, ocolor)
                for oshape, ocolor, _, ox, oy, oradius in placed
            )
            if apart:
                placed.append((shape, color, size, x, y, radius))
                break
    return sorted(placed, key=lambda item: item[3])


def sample_scene(
    rng: np.random.Generator, height: int = CANVAS, width: int = CANVAS, objects: int | None = None
) -> Scene:
    """Draws a scene of ``height`` by ``width`` pixels (each at least 52) with ``objects`` objects, or one to four.

    Fewer objects come back where the canvas has no room left for all of them.
    """
    if min(height, width) < 52:
        raise ValueError(f"sample_scene: height and width must be at least 52 pixels, got {height}x{width}")
    count = int(rng.integers(1, MAX_OBJECTS + 1)) if objects is None else objects
    if not 1 <= count <= MAX_OBJECTS:
        raise ValueError(f"sample_scene: objects must be 1 to {MAX_OBJECTS}, got {count}")
    placed = _place(rng, height, width, count)
    texture = TEXTURES[rng.integers(len(TEXTURES))]
    canvas = _background(rng, texture, height, width)
    items = []
    for shape, color, size, x, y, radius in placed:
        mask = _paint(rng, canvas, shape, color, x, y, radius)
        items.append(SceneObject(shape, color, size, x, y, radius, mask))
    canvas += rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(rng.uniform(0, 6))
    return Scene(np.clip(canvas, 0, 255).astype(np.uint8), texture, tuple(items))


def caption(scene: Scene) -> Dialogue:
    """The caption of a scene, with the object that each of its words belongs to."""
    words: list[str] = []
    owners: list[int] = []
    last = len(scene.objects) - 1
    for index, item in enumerate(scene.objects):
        if index:
            words.append("and" if index == last else ",")
            owners.append(-1)
        words += ["a", item.size, item.color, item.shape]
        owners += [-1, index, index, index]
    words += ["on", "a", scene.background, "background"]
    owners += [-1] * 4
    return Dialogue(CAPTION_PROMPT, tuple(words), tuple(owners))


def _pick_unique(rng: np.random.Generator, words: list[str]) -> int | None:
    """The index of one of the words that occur once, or None where all are repeated."""
    unique = [index for index, word in enumerate(words) if words.count(word) == 1]
    return unique[rng.integers(len(unique))] if unique else None


def question(rng: np.random.Generator, scene: Scene, kind: str) -> Dialogue | None:
    """A question of one of ``QUESTIONS`` about a scene, or None where the scene has no unambiguous one of that kind."""
    shapes = [item.shape for item in scene.objects]
    colors = [item.color for item in scene.objects]
    match kind:
        case "color":
            index = _pick_unique(rng, shapes)
            if index is None:
                return None
            shape, color = shapes[index], colors[index]
            return Dialogue(f"what color is the {shape} ?", ("the", shape, "is", color), (-1, index, -1, index))
        case "absent":
            missing = [shape for shape in SHAPES if shape not in shapes]
            shape = missing[rng.integers(len(missing))]
            return Dialogue(f"what color is the {shape} ?", ("there", "is", "no", shape), (-1, -1, -1, -1))
        case "object":
            index = _pick_unique(rng, colors)
            if index is None:
                return None
            shape, color = shapes[index], colors[index]
            answer = ("the", color, "object", "is", "a", shape)
            return Dialogue(f"what is the {color} object ?", answer, (-1, index, index, -1, -1, index))
        case "count":
            noun = "object" if len(shapes) == 1 else "objects"
            return Dialogue("how many objects ?", (NUMBERS[len(shapes) - 1], noun), (-1, -1))
        case "background":
            return Dialogue("what is the background ?", ("a", scene.background, "background"), (-1, -1, -1))
    raise ValueError(f"question: kind must be one of {', '.join(QUESTIONS)}, got {kind!r}")
