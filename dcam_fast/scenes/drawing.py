"""Synthetic scenes with captions, questions and one ground-truth mask for each object.

A scene is a textured background with one to four objects (shape, color, size) that do not overlap. Its caption lists
the objects from left to right, so that exactly one caption is correct::

    a small pink circle , a large yellow ring and a ... on a shaded background

Hard scenes have up to six objects that overlap and share colors and shapes, often a small object next to a similar
larger one. Their backgrounds are closer to photographs.

Only NumPy is used, and a scene depends only on the random generator.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
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
RELATIONS = ("left", "right")  # questions about the neighbor of an object


@dataclass(frozen=True)
class SceneObject:
    """An object of a scene.

    Attributes:
        shape: one of `SHAPES`.
        color: one of `COLORS`.
        size: one of `SIZES`.
        x: column of the center in pixels.
        y: row of the center in pixels.
        radius: circumradius in pixels.
        mask: bool `[H, W]`, the visible pixels.
    """

    shape: str
    color: str
    size: str
    x: int
    y: int
    radius: int
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """A picture of objects on a textured background.

    Attributes:
        image: uint8 `[H, W, 3]`.
        background: the name of the texture.
        objects: the objects from left to right.
    """

    image: NDArray[np.uint8]
    background: str
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True)
class Dialogue:
    """A prompt and its only correct answer.

    Attributes:
        prompt: the question.
        answer: the words of the answer.
        object_index: for each word, the index of the object that it names; -1 for none.
    """

    prompt: str
    answer: tuple[str, ...]
    object_index: tuple[int, ...]


@cache
def _sprite(shape: str, radius: int, turns: int) -> NDArray[np.float32]:
    """Anti-aliased coverage of a shape, float32 `[2r + 3, 2r + 3]`, rotated by `turns` times 15 degrees."""
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
            raise ValueError(f"sample_scene: shape must be one of {', '.join(SHAPES)}, got {shape!r}")
    return inside.reshape(side, supersampling, side, supersampling).mean((1, 3)).astype(np.float32)


def _paint(
    rng: np.random.Generator, canvas: NDArray[np.float32], shape: str, color: str, x: int, y: int, radius: int
) -> NDArray[np.bool_]:
    """Paints one object onto `canvas` in place, in one of three surface styles that captions do not mention.

    Returns:
        Its mask, bool `[H, W]`.
    """
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
    """An object and its position in pixels."""

    shape: str
    color: str
    size: str
    x: int
    y: int
    radius: int


def _place(rng: np.random.Generator, height: int, width: int, count: int) -> list[Placement]:
    """Up to `count` objects from left to right that do not touch, no two of the same shape and color.

    They are at least one cell (8 px) apart horizontally, so that the order of the caption is visible.
    """
    placed: list[Placement] = []
    for _ in range(count):
        for _attempt in range(40):
            size = SIZES[rng.integers(2)]
            low, high = RADII[size]
            radius = int(rng.integers(low, high + 1))
            x, y = int(rng.integers(radius + 1, width - radius - 1)), int(rng.integers(radius + 1, height - radius - 1))
            shape, color = SHAPES[rng.integers(len(SHAPES))], tuple(COLORS)[rng.integers(len(COLORS))]
            fits = all(
                abs(x - other.x) >= 8
                and np.hypot(x - other.x, y - other.y) >= radius + other.radius + 2
                and (shape, color) != (other.shape, other.color)
                for other in placed
            )
            if fits:
                placed.append(Placement(shape, color, size, x, y, radius))
                break
    return sorted(placed, key=lambda item: item.x)


def _draw_similar(rng: np.random.Generator, placed: list[Placement]) -> tuple[str, str, str]:
    """Shape, color and size of the next object of a hard scene.

    Half of the objects share the color or the shape of an earlier one, and half of these have the other size.
    """
    shape, color = SHAPES[rng.integers(len(SHAPES))], tuple(COLORS)[rng.integers(len(COLORS))]
    size = SIZES[rng.integers(2)]
    if placed and rng.random() < 0.5:
        model = placed[rng.integers(len(placed))]
        shape, color = (model.shape, color) if rng.random() < 0.5 else (shape, model.color)
        size = size if rng.random() < 0.5 else SIZES[1 - SIZES.index(model.size)]
    return shape, color, size


def _place_hard(rng: np.random.Generator, height: int, width: int, count: int) -> list[Placement]:
    """Like `_place`, but objects may overlap. No object hides more than about a third of another one."""
    placed: list[Placement] = []
    for _ in range(count):
        for _attempt in range(60):
            shape, color, size = _draw_similar(rng, placed)
            low, high = RADII[size]
            radius = int(rng.integers(low, high + 1))
            x, y = int(rng.integers(radius + 1, width - radius - 1)), int(rng.integers(radius + 1, height - radius - 1))
            fits = all(
                abs(x - other.x) >= 8
                and np.hypot(x - other.x, y - other.y)
                >= max(0.75 * (radius + other.radius), max(radius, other.radius) + 0.25 * min(radius, other.radius))
                and (shape, color) != (other.shape, other.color)
                for other in placed
            )
            if fits:
                placed.append(Placement(shape, color, size, x, y, radius))
                break
    return placed


def sample_scene(
    rng: np.random.Generator, height: int = CANVAS, width: int = CANVAS, objects: int | None = None, hard: bool = False
) -> Scene:
    """Draws a scene. It has fewer objects where the canvas has no room for all of them.

    Args:
        rng: the random generator, which is advanced.
        height: of the image in pixels, at least 52.
        width: of the image in pixels, at least 52.
        objects: number of objects; None draws it from 1 to 4, or from 2 to 6 for a hard scene.
        hard: draw objects that overlap and look alike, on richer backgrounds.

    Raises:
        ValueError: if the image is too small, or if there are too many or no objects.

    Example:
        >>> scene = sample_scene(np.random.default_rng(0), objects=1)
        >>> print(*caption(scene).answer)
        a large red triangle on a plain background
    """
    if min(height, width) < 52:
        raise ValueError(f"sample_scene: height and width must be at least 52 pixels, got {height}x{width}")
    low, high = (2, MAX_HARD_OBJECTS) if hard else (1, MAX_OBJECTS)
    count = int(rng.integers(low, high + 1)) if objects is None else objects
    if not 1 <= count <= high:
        raise ValueError(f"sample_scene: objects must be 1 to {high}, got {count}")
    placed = (_place_hard if hard else _place)(rng, height, width, count)
    textures = HARD_TEXTURES if hard else TEXTURES
    texture = textures[rng.integers(len(textures))]
    canvas = background(rng, texture, height, width)
    items: list[SceneObject] = []
    for place in placed:
        mask = _paint(rng, canvas, place.shape, place.color, place.x, place.y, place.radius)
        items = [replace(item, mask=item.mask & ~mask) for item in items]
        items.append(SceneObject(**asdict(place), mask=mask))
    items.sort(key=lambda item: item.x)
    canvas += rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(rng.uniform(0, 6))
    return Scene(np.clip(canvas, 0, 255).astype(np.uint8), texture, tuple(items))


def caption(scene: Scene) -> Dialogue:
    """The caption of a scene, with the object that each word names."""
    words: list[str] = []
    object_index: list[int] = []
    last = len(scene.objects) - 1
    for index, item in enumerate(scene.objects):
        if index:
            words.append("and" if index == last else ",")
            object_index.append(-1)
        words += ["a", item.size, item.color, item.shape]
        object_index += [-1, index, index, index]
    words += ["on", "a", scene.background, "background"]
    object_index += [-1] * 4
    return Dialogue(CAPTION_PROMPT, tuple(words), tuple(object_index))


def _pick_unique(rng: np.random.Generator, words: list[str]) -> int | None:
    """The index of a random word that occurs only once; None if all are repeated."""
    unique = [index for index, word in enumerate(words) if words.count(word) == 1]
    return unique[rng.integers(len(unique))] if unique else None


def question(rng: np.random.Generator, scene: Scene, kind: str) -> Dialogue | None:
    """A question about a scene; None if the scene has no unambiguous one of that kind.

    Args:
        rng: the random generator, which is advanced.
        scene: the scene.
        kind: one of `QUESTIONS` or `RELATIONS`.

    Raises:
        ValueError: for another kind.
    """
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
            neighbor = index + (-1 if kind == "left" else 1)
            if not 0 <= neighbor < len(shapes):
                return Dialogue(prompt, ("there", "is", "no", "object"), (-1, -1, -1, -1))
            item = scene.objects[neighbor]
            return Dialogue(prompt, ("a", item.size, item.color, item.shape), (-1, neighbor, neighbor, neighbor))
        case "background":
            return Dialogue("what is the background ?", ("a", scene.background, "background"), (-1, -1, -1))
    raise ValueError(f"question: kind must be one of {', '.join(QUESTIONS + RELATIONS)}, got {kind!r}")
