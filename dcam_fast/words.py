"""Words of an answer: how a text is split, which words are content words, and how a phrase is found.

A word is a run of letters and digits with their combining marks. It keeps an apostrophe (`don't`), a decimal point
(`3.5`) and the dots of an abbreviation (`e.g.`). Words joined by hyphens, or by `'s`, are one word of several parts
(`t-shirt`, `dog's`), and each part is a valid target too. In scripts without spaces (Han, kana, Thai, ...) each
character is a part, and words end where tokens end. An emoji is a word. Any other run of one character is a sign, which
is not part of a word.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import regex

_FUNCTION_WORDS = """
a about above after again all also am an and any are as at be because been before being below between both but by can
could did do does doing down during each else few for from further had has have having he her here hers him his how i if
in into is it its itself just many may me might more most much must my near no nor not of off on once one's only onto or
other our ours out over own same she should so some such than that the their theirs them then there these they this
those through to too under until up upon us very was we were what when where which while who whom whose why will with
within without would yes you your yours
aren't can't couldn't didn't doesn't don't hadn't hasn't haven't he'd he'll here's he's i'd i'll i'm isn't it'll it's
i've let's she'd she'll she's shouldn't that's there's they'd they'll they're they've wasn't we'd we'll we're we've
weren't what's who's won't wouldn't you'd you'll you're you've
"""
FUNCTION_WORDS: Final = frozenset(_FUNCTION_WORDS.split())
BROKEN: Final = "\ufffd"  # how tokenizers decode an incomplete character

_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー]\p{M}*+"
_LETTER = rf"(?:(?!{_UNSPACED})[\p{{L}}\p{{N}}][\p{{M}}\u00ad\u200c\u200d]*+)"
_LONE = r"(?<![\p{L}\p{N}])"
_END = r"(?![\p{L}\p{N}])"
_EMOJI = r"(?:(?=\p{Emoji_Presentation}|\p{Extended_Pictographic}|\p{RI}|[0-9#*]\ufe0f?\u20e3)\X)"
_ABBREVIATION = rf"(?:{_LONE}\p{{L}}(?:\.\p{{L}})+(?:\.|{_END}))"
_LANGUAGE = rf"(?:{_LONE}[A-Za-z](?:\+\+|\#(?!\p{{N}})))"  # C++, C#
_PLAIN = rf"(?:(?:\p{{N}}+[.,:](?=\p{{N}}))*{_LETTER}+(?:['\u2019](?!s{_END}){_LETTER}+)*)"
_POSSESSIVE = r"(?:(?:\A|(?<=[\p{L}\p{N}\p{M}]))['\u2019]s(?![\p{L}\p{N}]))"
_WORD = rf"(?:{_ABBREVIATION}|{_LANGUAGE}|{_PLAIN})"
_SIGN = r"(?:(?P<char>[^\s\p{L}\p{N}\p{Cc}\p{Cf}])\p{M}*(?P=char)*)"
_PART = regex.compile(rf"{_EMOJI}|{_WORD}|{_POSSESSIVE}|{_UNSPACED}|{_SIGN}")
_UNSPACED_START = regex.compile(_UNSPACED)
_COMPOUND = regex.compile(rf"{_EMOJI}|{_WORD}(?:[-\u2010\u2011]{_WORD}|{_POSSESSIVE})*|(?:{_UNSPACED})+|{_SIGN}")
_SPOKEN = regex.compile(rf"[\p{{L}}\p{{N}}]|{_EMOJI}")
_ORDINAL = regex.compile(r"(?P<phrase>.*[^\s#])#(?P<ordinal>[0-9]{1,9})\s*", regex.DOTALL)
_HYPHENS = str.maketrans("\u2019\u2010\u2011", "'--")


@dataclass(frozen=True)
class Word:
    """A word of the answer.

    Attributes:
        text: as it reads there, without the signs around it.
        positions: of its tokens.
        parts: its parts, if it has several that are valid targets (`t-shirt`); see `dcam_fast.words`.
    """

    text: str
    positions: tuple[int, ...]
    parts: tuple[Word, ...] = ()


def fold(text: str) -> str:
    """A text for comparison: without case, Unicode normal form and invisible characters."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).translate(_HYPHENS)
    return "".join(c for c in folded if c not in "\ufe0e\ufe0f" and unicodedata.category(c) != "Cf")


def is_sign(text: str) -> bool:
    """Whether a text has no letter, digit or emoji."""
    return _SPOKEN.search(text) is None


def split_parts(text: str) -> list[tuple[int, int]]:
    """The (start, end) characters of the smallest possible targets, in order: parts of words, and signs."""
    return [match.span() for match in _PART.finditer(text)]


def split_words(text: str) -> list[str]:
    """The words of a text in order, compounds whole, without signs."""
    return [match[0] for match in _COMPOUND.finditer(text) if not is_sign(match[0])]


def is_content(text: str) -> bool:
    """Whether a text is a content word: neither a sign nor an English function word."""
    return not is_sign(text) and fold(text) not in FUNCTION_WORDS


def words_in(text: str, spans: Sequence[tuple[int, int]]) -> tuple[Word, ...]:
    """The words and signs of a text.

    Args:
        text: to split.
        spans: (start, end) characters of the token at each position, in order. A token that is not in the text has an
            empty span. A character that several tokens spell together is in the span of each.
    """
    # positions of the tokens of each character, and whether a token begins there
    holders: list[list[int]] = [[] for _ in text]
    begins = [False] * len(text)
    for position, (start, end) in enumerate(spans):
        for character in range(start, end):
            holders[character].append(position)
        if start < end:
            begins[start] = True

    def word(start: int, end: int, parts: tuple[Word, ...] = ()) -> Word:
        positions = sorted({position for character in range(start, end) for position in holders[character]})
        return Word(text[start:end], tuple(positions), parts)

    words = []
    parts = split_parts(text)
    index = 0
    for match in _COMPOUND.finditer(text):
        groups: list[list[tuple[int, int]]] = []
        while index < len(parts) and parts[index][1] <= match.end():
            start, end = parts[index]
            if not groups or (begins[start] and _UNSPACED_START.match(text, start)):
                groups.append([])
            groups[-1].append((start, end))
            index += 1
        for group in groups:
            inner = tuple(word(start, end) for start, end in group) if len(group) > 1 else ()
            words.append(word(group[0][0], group[-1][1], inner))
    return tuple(word for word in words if word.positions)


def align(text: str, pieces: Sequence[str]) -> list[tuple[int, int]]:
    """The spans in `text`, for `words_in`, of tokens that decode to `pieces`, in order.

    A piece that ends in the replacement character begins a character that a later piece completes. If no piece has that
    character, all pieces that wait for it get the text between their neighbors. A piece that is not in the text gets an
    empty span.
    """
    spans = [(0, 0)] * len(pieces)
    cursor = 0
    waiting: list[int] = []

    def settle(end: int, completed: int) -> None:
        """Gives the waiting pieces the text up to `end`, or up to `completed` if that is empty."""
        between = text[cursor:end]
        start = cursor + len(between) - len(between.lstrip())
        stop = cursor + len(between.rstrip()) if between.strip() else completed
        for position in waiting:
            begin = spans[position][0] if spans[position][1] else start
            spans[position] = (begin, max(stop, begin))
        waiting.clear()

    for position, piece in enumerate(pieces):
        shown = piece.strip().strip(BROKEN)
        start = text.find(shown, cursor) if shown else -1
        if start >= 0 and (waiting or not text[cursor:start].strip()):
            settle(start, start + 1)
            cursor = start + len(shown)
            spans[position] = (start, cursor)
        if piece.endswith(BROKEN):
            waiting.append(position)
    settle(len(text), cursor)
    return spans


def parts_of(words: Sequence[Word]) -> list[Word]:
    """The smallest parts of some words, signs included."""
    parts: list[Word] = []
    for word in words:
        spans = () if word.parts else split_parts(word.text)
        parts += word.parts or [Word(word.text[start:end], word.positions) for start, end in spans]
    return parts


def split_ordinal(phrase: str) -> tuple[str, int | None]:
    """A phrase and its number: `"ring#2"` gives `("ring", 2)`, `"ring"` gives `("ring", None)`."""
    match = _ORDINAL.fullmatch(phrase)
    return (match["phrase"], int(match["ordinal"])) if match else (phrase, None)


def occurrences(phrase: str, words: Sequence[Word]) -> list[tuple[Word, ...]]:
    """The runs of parts of words that match `phrase`, in the order of the text.

    Signs are ignored, unless `phrase` contains signs and a run matches them too.
    """
    phrase_parts = [phrase[start:end] for start, end in split_parts(phrase)]
    spoken = [part for part in phrase_parts if not is_sign(part)]
    parts = parts_of(words)
    if len(spoken) < len(phrase_parts):
        exact = _runs(phrase_parts, parts)
        if exact or not spoken:
            return exact
    return _runs(spoken, [part for part in parts if not is_sign(part.text)])


def _runs(phrase_parts: Sequence[str], parts: Sequence[Word]) -> list[tuple[Word, ...]]:
    size = len(phrase_parts)
    phrase, keys = [fold(part) for part in phrase_parts], [fold(part.text) for part in parts]
    starts = [start for start in range(len(keys) - size + 1) if phrase and keys[start : start + size] == phrase]
    return [tuple(parts[start : start + size]) for start in starts]


def find_run(phrase: str, words: Sequence[Word]) -> tuple[Word, ...] | None:
    """The first run of `occurrences`, or the one whose number the phrase ends in. None if there is no such run."""
    text, ordinal = split_ordinal(phrase)
    runs = occurrences(text, words)
    number = 1 if ordinal is None else ordinal
    return runs[number - 1] if 1 <= number <= len(runs) else None


def positions_in(run: Sequence[Word]) -> tuple[int, ...]:
    """Distinct positions of the tokens of some words, in order."""
    return tuple(dict.fromkeys(position for word in run for position in word.positions))


def find_phrase(phrase: str, words: Sequence[Word]) -> tuple[int, ...] | None:
    """Positions of the tokens of the first run of `words` that matches `phrase`. None if there is no such run.

    Case, Unicode normal form and the signs between words do not matter. `"ring#2"` is the second ring.
    """
    run = find_run(phrase, words)
    return None if run is None else positions_in(run)
