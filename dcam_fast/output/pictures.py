"""Explanations as pictures: overlays and contact sheets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dcam_fast import ops
from dcam_fast.explained_answer import ExplainedAnswer
from dcam_fast.ops.overlay import color_table
from dcam_fast.output.fonts import MISSING, Font, missing

if TYPE_CHECKING:  # imported where something is drawn
    from PIL import ImageDraw

Color = tuple[int, int, int]

PAPER: Final = (255, 255, 255)
INK: Final = (17, 24, 39)
MUTED: Final = (107, 114, 128)
TRACK: Final = (229, 231, 235)
LOOSE: Final = (148, 163, 184)  # the color of groundedness 0
GROUNDED: Final = (5, 150, 105)  # and of 1

MARGIN: Final = 28
GAP: Final = 16
CAPTION: Final = 54  # height of what is written under a panel
SHEET_PIXELS: Final = 900_000  # of all panels together, which limits the file size
PANEL_SIDES: Final = (128, 272)
MOST_COLUMNS: Final = 12


def groundedness_color(groundedness: float | None) -> Color:
    """The color of a groundedness in 0..1, readable on light and dark backgrounds. None has that of 0."""
    share = min(max(groundedness or 0.0, 0.0), 1.0)
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(LOOSE, GROUNDED, strict=True))
    return red, green, blue


def readable(score: float | None) -> str:
    """A score in 0..1 with two digits, `"-"` where it was not requested."""
    return "-" if score is None else f"{score:.2f}"


def resized(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """An image resized, uint8 `[height, width, 3]`."""
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def fit(width: int, height: int, within_width: float, within_height: float) -> tuple[int, int]:
    """The largest size of the same aspect ratio that fits, at least 1 x 1."""
    scale = min(within_width / width, within_height / height)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def overlays(
    explanation: ExplainedAnswer,
    image: NDArray[np.uint8],
    indices: Sequence[int],
    *,
    colormap: str = "turbo",
    alpha: float = 0.5,
) -> list[Image.Image]:
    """Maps of some targets in color over an image.

    Args:
        explanation: whose maps they are.
        image: uint8 `[H, W, 3]`, the explanation's image at any size.
        indices: of the targets.
        colormap: the name of a matplotlib colormap.
        alpha: opacity of the map, 0 to 1.

    Raises:
        ValueError: for an unknown colormap, or an `alpha` outside 0 to 1.
    """
    height, width = explanation.image.shape[:2]
    maps = explanation.maps[list(indices)]
    across, down = image.shape[1] / width, image.shape[0] / height
    boxes = explanation.boxes * explanation.boxes.new_tensor([across, down, across, down])
    pixels = torch.tensor(image, device=maps.device)
    return [Image.fromarray(picture) for picture in ops.overlay(maps, pixels, boxes, colormap, alpha).cpu().numpy()]


def _shortened(text: str, font: Font, width: float) -> str:
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def glyph_note(explanations: Sequence[ExplainedAnswer]) -> str:
    """The note about characters that no font has. Empty if there are no such characters."""
    lost = missing("".join(explanation.prompt + explanation.answer for explanation in explanations))
    named = ", ".join(f"U+{ord(character):04X}" for character in lost[:3])
    more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
    return f"{MISSING}: no font here has {named}{more}; the page shows them" if lost else ""


def _write_answer(
    draw: ImageDraw.ImageDraw | None, explanation: ExplainedAnswer, left: float, top: float, width: float
) -> float:
    """Writes prompt and answer, with targets underlined in the color of their groundedness.

    Without `draw` it only measures.

    Returns:
        The bottom edge, in pixels.
    """
    small, large = Font(14), Font(21, bold=True)
    if draw:
        small.draw(draw, (left, top), _shortened(explanation.prompt, small, width), MUTED)
    x, y, line = left, top + 26.0, 38
    for piece in explanation.pieces():
        for part in piece.text.splitlines(keepends=True):
            text = part.rstrip("\r\n")
            advance = large.getlength(text)
            if x > left and x + advance > left + width:
                x, y = left, y + line
                text = text.lstrip()
                advance = large.getlength(text)
            if draw and text.strip():
                plain = piece.target is None
                large.draw(draw, (x, y), text, MUTED if plain else INK)
                if piece.target is not None:
                    color = groundedness_color(explanation.targets[piece.target].groundedness)
                    draw.rounded_rectangle((x, y + 28, x + advance - 1, y + 31), 2, color)
            x += advance
            if text != part and part.endswith(("\n", "\r")):
                x, y = left, y + line
    return y + line


def _write_caption(
    draw: ImageDraw.ImageDraw, explanation: ExplainedAnswer, index: int, box: tuple[int, int, int]
) -> None:
    """Writes a target's name, steps and groundedness under its panel, into (left, top, width)."""
    left, top, width = box
    target, name, steps = explanation.targets[index], explanation.names[index], explanation.steps(index)
    value, bold, small = readable(target.groundedness), Font(15 if width >= 160 else 13, bold=True), Font(12)
    color = groundedness_color(target.groundedness)
    draw.rounded_rectangle((left, top, left + width - 1, top + 4), 2, TRACK)
    filled = round((width - 1) * min(max(target.groundedness or 0, 0), 1))
    if filled >= 4:
        draw.rounded_rectangle((left, top, left + filled, top + 4), 2, color)
    bold.draw(draw, (left + width - bold.getlength(value), top + 10), value, color)
    bold.draw(draw, (left, top + 10), _shortened(name, bold, width - bold.getlength(value) - 8), INK)
    if steps:
        when = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
        small.draw(draw, (left, top + 31), when, MUTED)


def _draw_legend(sheet: Image.Image, left: int, top: int, colormap: str, width: int) -> None:
    from PIL import ImageDraw

    draw, font = ImageDraw.Draw(sheet), Font(12)
    table = color_table(colormap, torch.device("cpu"))
    strip = Image.fromarray(table.numpy()[None]).resize((120, 8), Image.Resampling.BILINEAR)
    x = left + font.getlength("low") + 6
    font.draw(draw, (left, top), "low", MUTED)
    sheet.paste(strip, (round(x), top + 4))
    font.draw(draw, (x + 126, top), "high", MUTED)
    note = "bars: groundedness, 0 to 1"
    if x + 190 + font.getlength(note) <= left + width:
        font.draw(draw, (left + width - font.getlength(note), top), note, MUTED)


def contact_sheet(
    explanations: Sequence[ExplainedAnswer], *, colormap: str = "turbo", alpha: float = 0.5
) -> Image.Image:
    """One picture of several explanations, one below the other: answer, image, and an overlay for each target.

    Raises:
        ValueError: if there are no explanations, for an unknown colormap, or an `alpha` outside 0 to 1.
    """
    from PIL import ImageDraw

    if not explanations:
        raise ValueError("contact_sheet: explanations must be at least one, got none")
    counts = [len(explanation.targets) + 1 for explanation in explanations]
    low, high = PANEL_SIDES
    panel = round(min(max(math.sqrt(SHEET_PIXELS / sum(counts)), low), high))
    # one explanation: a wide rectangle of panels; several: one row each, up to the maximum width
    preferred = max(3, math.ceil(math.sqrt(1.6 * counts[0]))) if len(counts) == 1 else MOST_COLUMNS
    columns = max(min(preferred, max(counts)), 2)
    across = columns * (panel + GAP) - GAP

    shapes = [explanation.image.shape for explanation in explanations]
    sizes = [fit(width, height, panel, 1.25 * panel) for height, width, _ in shapes]
    tops, bottom = [], float(MARGIN)
    for explanation, count, (_, high) in zip(explanations, counts, sizes, strict=True):
        tops.append(round(bottom))
        answer = _write_answer(None, explanation, 0, 0, across)
        bottom += answer + 12 + math.ceil(count / columns) * (high + CAPTION + GAP) + GAP
    note, small = glyph_note(explanations), Font(12)
    height = round(bottom) + 12 + MARGIN + (18 if note else 0)
    sheet = Image.new("RGB", (across + 2 * MARGIN, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    if note:
        small.draw(draw, (MARGIN, round(bottom) + 14), _shortened(note, small, across), MUTED)
    for explanation, top, (wide, high) in zip(explanations, tops, sizes, strict=True):
        y = round(_write_answer(draw, explanation, MARGIN, top, across)) + 12
        shown = resized(explanation.image, wide, high)
        everything = range(len(explanation.targets))
        pictures = [Image.fromarray(shown), *overlays(explanation, shown, everything, colormap=colormap, alpha=alpha)]
        for place, picture in enumerate(pictures):
            row, column = divmod(place, columns)
            left, at = MARGIN + column * (panel + GAP), y + row * (high + CAPTION + GAP)
            sheet.paste(picture, (left + (panel - wide) // 2, at))
            if place:
                _write_caption(draw, explanation, place - 1, (left, at + high + 6, panel))
            else:
                Font(15).draw(draw, (left, at + high + 16), "the image", MUTED)
    _draw_legend(sheet, MARGIN, round(bottom) - 4, colormap, across)
    return sheet
