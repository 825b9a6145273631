"""Which words of an answer stand for something: the content words that are explained by default."""

from __future__ import annotations

from dcam_fast.models.adapter import Word

_FUNCTION_WORDS = """
a about above after again all also am an and any are as at be because been before being below between both but by can
could did do does doing down during each else few for from further had has have having he her here hers him his how i if
in into is it its itself just many may me might more most much must my near no nor not of off on once one's only onto or
other our ours out over own same she should so some such than that the their theirs them then there these they this
those through to too under until up upon us very was we were what when where which while who whom whose why will with
within without would yes you your yours
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


def is_content(text: str) -> bool:
    """Whether a word can name a thing or a property: it has a letter or digit and is no English function word."""
    return any(character.isalnum() for character in text) and text.lower() not in FUNCTION_WORDS


def find_phrase(phrase: str, words: tuple[Word, ...]) -> tuple[int, ...] | None:
    """Positions of the tokens of the first run of ``words`` that reads as ``phrase``, whatever the case; None if there
    is none. ``"ring#2"`` asks for the second."""
    wanted_text, _, ordinal = phrase.rpartition("#") if phrase.rpartition("#")[2].isdigit() else (phrase, "", "1")
    wanted = wanted_text.lower().split()
    texts = [word.text.lower() for word in words]
    starts = [i for i in range(len(texts) - len(wanted) + 1) if wanted and texts[i : i + len(wanted)] == wanted]
    if len(starts) < int(ordinal) or int(ordinal) < 1:
        return None
    start = starts[int(ordinal) - 1]
    return tuple(position for word in words[start : start + len(wanted)] for position in word.positions)
