"""Synthetic scenes with captions, questions and one ground-truth mask per object: the embedded model's whole world.

A scene is a textured background with one to four objects (shape, color, size) that do not overlap. Its caption lists
the objects from left to right, so that there is exactly one right answer::

    a small pink circle , a large yellow ring and a ... on a shaded background

Hard scenes have up to six objects that overlap and share colors and shapes, a small object beside a larger one that
is easily taken for it, and backgrounds closer to photographs.

Only NumPy is used, and every scene is a pure function of the generator it is given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from dcam_fast.scenes.textures import HARD_TEXTURES, TEXTURES, background

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
NUMBERS = ("one", "two", "three", "four", "five", "six")
MAX_OBJECTS, MAX_HARD_OBJECTS = 4, len(NUMBERS)
CANVAS = 128  # pixels, the side of a full scene

CAPTION_PROMPT = "describe the image"
QUESTIONS = ("color", "absent", "object", "count", "background")
RELATIONS = ("left", "right")  # questions too: what is beside something


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


@dataclass(frozen=True)
class Placement:
    """What an object is and where it goes, in pixels."""

    shape: str
    color: str
    size: str
    x: int
    y: int
    radius: int


def _place(rng: np.random.Generator, height: int, width: int, count: int) -> list[Placement]:
    """Up to ``count`` objects from left to right, pairwise distinct in shape and color, not touching, and at least one
    grid cell (8 px) apart from left to right, so that the order of the caption can be seen."""
    placed: list[Placement] = []
    for _ in range(count):
        for _attempt in range(40):
            size = SIZES[rng.integers(2)]
            low, high = RADII[size]
            radius = int(rng.integers(low, high + 1))
            x, y = int(rng.integers(radius + 1, width - radius - 1)), int(rng.integers(radius + 1, height - radius - 1))
            shape, color = SHAPES[rng.integers(len(SHAPES))], tuple(COLORS)[rng.integers(len(COLORS))]
            apart = all(
                abs(x - o.x) >= 8
                and np.hypot(x - o.x, y - o.y) >= radius + o.radius + 2
                and (shape, color) != (o.shape, o.color)
                for o in placed
            )
            if apart:
                placed.append(Placement(shape, color, size, x, y, radius))
                break
    return sorted(placed, key=lambda o: o.x)


def _likeness(rng: np.random.Generator, placed: list[Placement]) -> tuple[str, str, str]:
    """Shape, color and size of the next object of a hard scene: half of them share the color or the shape of one that
    is there, and are then of the other size as often as not, so that the likest thing around is a larger one."""
    shape, color = SHAPES[rng.integers(len(SHAPES))], tuple(COLORS)[rng.integers(len(COLORS))]
    size = SIZES[rng.integers(2)]
    if placed and rng.random() < 0.5:
        like = placed[rng.integers(len(placed))]
        shape, color = (like.shape, color) if rng.random() < 0.5 else (shape, like.color)
        size = size if rng.random() < 0.5 else SIZES[1 - SIZES.index(like.size)]
    return shape, color, size


def _place_hard(rng: np.random.Generator, height: int, width: int, count: int) -> list[Placement]:
    """Like `_place`, but objects may overlap: in the order in which they are painted, none hidden by more than about a
    third by any one other."""
    placed: list[Placement] = []
    for _ in range(count):
        for _attempt in range(60):
            shape, color, size = _likeness(rng, placed)
            low, high = RADII[size]
            radius = int(rng.integers(low, high + 1))
            x, y = int(rng.integers(radius + 1, width - radius - 1)), int(rng.integers(radius + 1, height - radius - 1))
            fits = all(
                abs(x - o.x) >= 8
                and np.hypot(x - o.x, y - o.y)
                >= max(0.75 * (radius + o.radius), max(radius, o.radius) + 0.25 * min(radius, o.radius))
                and (shape, color) != (o.shape, o.color)
                for o in placed
            )
            if fits:
                placed.append(Placement(shape, color, size, x, y, radius))
                break
    return placed


def sample_scene(
    rng: np.random.Generator, height: int = CANVAS, width: int = CANVAS, objects: int | None = None, hard: bool = False
) -> Scene:
    """Draws a scene of ``height`` by ``width`` pixels (each at least 52) with ``objects`` objects, or one to four (two
    to six in a ``hard`` one).

    Fewer objects come back where the canvas has no room left for all of them.
    """
    if min(height, width) < 52:
        raise ValueError(f"sample_scene: height and width must be at least 52 pixels, got {height}x{width}")
    fewest, most = (2, MAX_HARD_OBJECTS) if hard else (1, MAX_OBJECTS)
    count = int(rng.integers(fewest, most + 1)) if objects is None else objects
    if not 1 <= count <= most:
        raise ValueError(f"sample_scene: objects must be 1 to {most}, got {count}")
    placed = (_place_hard if hard else _place)(rng, height, width, count)
    textures = HARD_TEXTURES if hard else TEXTURES
    texture = textures[rng.integers(len(textures))]
    canvas = background(rng, texture, height, width)
    items: list[SceneObject] = []
    for o in placed:
        mask = _paint(rng, canvas, o.shape, o.color, o.x, o.y, o.radius)
        items = [replace(item, mask=item.mask & ~mask) for item in items]
        items.append(SceneObject(o.shape, o.color, o.size, o.x, o.y, o.radius, mask))
    items.sort(key=lambda item: item.x)
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
    """A question of one of ``QUESTIONS`` or ``RELATIONS`` about a scene, or None where the scene has no unambiguous one
    of that kind."""
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
        case "left" | "right":
            index = _pick_unique(rng, shapes)
            if index is None:
                return None
            prompt = f"what is {kind} of the {shapes[index]} ?"
            beside = index + (-1 if kind == "left" else 1)
            if not 0 <= beside < len(shapes):
                return Dialogue(prompt, ("there", "is", "no", "object"), (-1, -1, -1, -1))
            there = scene.objects[beside]
            return Dialogue(prompt, ("a", there.size, there.color, there.shape), (-1, beside, beside, beside))
        case "background":
            return Dialogue("what is the background ?", ("a", scene.background, "background"), (-1, -1, -1))
    raise ValueError(f"question: kind must be one of {', '.join(QUESTIONS + RELATIONS)}, got {kind!r}")
