"""Text in pictures: each character in a font of this machine that has it."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import regex
from PIL import ImageDraw, ImageFont

MISSING: Final = "\ufffd"  # drawn for a character that no font has
BASE: Final = ""  # the default font of either weight
_CLUSTER = regex.compile(r"\X")

Color = tuple[int, int, int]


def base_font(bold: bool) -> str:
    """Path of the default font, which comes with matplotlib."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name)


@functools.cache
def _system_fonts() -> tuple[str, ...]:
    """Paths of the fonts of this machine, plain ones first."""
    from matplotlib import font_manager

    def rank(path: str) -> tuple[bool, bool, str]:
        name = Path(path).name.lower()
        return "regular" not in name, "sans" not in name, path

    return tuple(sorted(font_manager.findSystemFonts(), key=rank))


def _needs_glyph(character: str) -> bool:
    unseen = unicodedata.category(character) in ("Cc", "Cf") or "\ufe00" <= character <= "\ufe0f"
    return not unseen and not character.isspace()


def _glyphs_in(path: str, characters: Iterable[str]) -> set[str]:
    """The characters that a font has an outline for."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
    except (OSError, RuntimeError, ValueError):  # a broken file among the system's
        return set()
    return {c for c in characters if font.scalable and font.get_char_index(ord(c))}


_found: dict[str, str | None] = {}  # path or `BASE` of each character looked up; None if no font has it


def look_up(text: str) -> None:
    """Finds fonts for all characters of a text. Each font of the machine is opened once at most."""
    left = {c for c in text if _needs_glyph(c) and c not in _found}
    for path in (BASE, base_font(bold=False), *_system_fonts()) if left else ():
        found = (
            _glyphs_in(path, left) if path else _glyphs_in(base_font(False), left) & _glyphs_in(base_font(True), left)
        )
        _found.update(dict.fromkeys(found, path))
        left -= found
        if not left:
            break
    _found.update(dict.fromkeys(left))


def missing(text: str) -> list[str]:
    """The distinct characters of a text that no font of this machine has, in order."""
    look_up(text)
    return [c for c in dict.fromkeys(text) if _needs_glyph(c) and _found[c] is None]


@functools.cache
def _load(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@dataclass(frozen=True)
class Font:
    """Size and weight of written text."""

    size: int
    bold: bool = False

    def getlength(self, text: str) -> float:
        """Width of a text in pixels."""
        return sum(font.getlength(part) for part, font in self._runs(text))

    def draw(self, draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, color: Color) -> None:
        """Writes a text with its upper left corner at `place`."""
        x, y = place
        baseline = y + _load(base_font(self.bold), self.size).getmetrics()[0]
        for part, font in self._runs(text):
            draw.text((x, baseline), part, color, font, anchor="ls")
            x += font.getlength(part)

    def _runs(self, text: str) -> list[tuple[str, ImageFont.FreeTypeFont]]:
        """A text in parts, each with a font that has all its characters."""
        look_up(text)
        runs: list[tuple[str, str]] = []
        for cluster in _CLUSTER.findall(text):
            paths = [_found[c] for c in cluster if _needs_glyph(c)] or [runs[-1][1] if runs else BASE]
            path, shown = (BASE, MISSING) if None in paths else (paths[0] or BASE, cluster)
            if runs and runs[-1][1] == path:
                shown = runs.pop()[0] + shown
            runs.append((shown, path))
        return [(part, _load(path or base_font(self.bold), self.size)) for part, path in runs]
