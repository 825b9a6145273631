"""Matching the words of an answer to annotated regions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from dcam_fast.evaluation.datasets.sample import Sample
from dcam_fast.models.adapter import Word
from dcam_fast.words import fold, is_sign, parts_of, positions_in, split_parts, split_words

_IRREGULAR = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "foot": "feet",
    "tooth": "teeth",
    "mouse": "mice",
    "goose": "geese",
    "knife": "knives",
    "leaf": "leaves",
    "shelf": "shelves",
    "sheep": "sheep",
    "skis": "skis",
    "scissors": "scissors",
    "broccoli": "broccoli",
    "bus": "buses",
}
_PREPOSITIONS = {"of", "in", "on", "at", "with", "by", "for", "from", "to", "under", "over", "behind", "beside", "near"}
_CLAUSES = {"that", "which", "who", "wearing"}


def plural(term: str) -> str:
    """The plural of an English word, or of the last word of a phrase."""
    head, space, last = term.rpartition(" ")
    for single, many in _IRREGULAR.items():
        if last.endswith(single) and (last == single or single in ("man", "woman", "child")):
            return head + space + last.removesuffix(single) + many
    if last.endswith(("s", "x", "z", "ch", "sh")):
        return term + "es"
    if last.endswith("y") and last[-2:-1] not in tuple("aeiou"):
        return term[:-1] + "ies"
    return term + "s"


def head_of(phrase: str) -> str:
    """The head noun of a phrase in lower case: the last word before its first preposition or clause."""
    words = [fold(word) for word in split_words(phrase)]
    end = next((index for index, word in enumerate(words) if index and word in _PREPOSITIONS | _CLAUSES), len(words))
    return words[end - 1] if words else phrase.lower()


def spoken_parts(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    """The parts of the words of a text, folded for comparison and without punctuation, and their (start, end)
    characters."""
    spans = [(start, end) for start, end in split_parts(text) if not is_sign(text[start:end])]
    return [fold(text[start:end]) for start, end in spans], spans


def find_terms(words: Sequence[str], terms: Sequence[Sequence[str]]) -> list[tuple[int, int, int]]:
    """Where a text names regions: (index into `terms`, first word, past the last word), in the order of the text.

    Longer terms are matched first; among equally long ones, those of the first region. No word is matched twice.

    Args:
        words: the text, from `spoken_parts`.
        terms: the terms of each region.
    """
    by_length = sorted(
        ((spoken_parts(term)[0], region) for region, names in enumerate(terms) for term in names),
        key=lambda pair: -len(pair[0]),
    )
    taken: set[int] = set()
    matches = []
    for term, region in by_length:
        for first in range(len(words) - len(term) + 1):
            places = range(first, first + len(term))
            if term and taken.isdisjoint(places) and list(words[first : first + len(term)]) == term:
                taken.update(places)
                matches.append((region, first, first + len(term)))
    return sorted(matches, key=lambda match: match[1])


def named_words(words: Sequence[Word], sample: Sample) -> list[tuple[Word, int]]:
    """The words and phrases of an answer that name a region, each with the index of the region.

    If the answer equals the sample's caption, the spans of the regions decide; otherwise their terms do.
    """
    parts = [(part, word) for word in words for part in parts_of([word]) if not is_sign(part.text)]
    texts = [fold(part.text) for part, _ in parts]
    caption, offsets = spoken_parts(sample.caption)
    if caption and texts == caption:
        matches = sorted(
            (first, last, index)
            for index, region in enumerate(sample.regions)
            for first, last in (_words_of(span, offsets) for span in region.spans)
            if first < last
        )
    else:
        terms = [*(region.terms for region in sample.regions), sample.compounds]
        term_matches = find_terms(texts, terms)
        matches = [(first, last, index) for index, first, last in term_matches if index < len(sample.regions)]
    return [(_joined(parts[first:last]), index) for first, last, index in matches]


def _words_of(span: tuple[int, int], offsets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """First word and past the last word that a span of characters overlaps."""
    inside = [index for index, (start, end) in enumerate(offsets) if start < span[1] and end > span[0]]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _joined(parts: Sequence[tuple[Word, Word]]) -> Word:
    """Parts of words, each with its word, as one word. A word with all its parts keeps its text."""
    texts: list[str] = []
    for word, run in itertools.groupby(parts, lambda pair: pair[1]):
        inside = [part.text for part, _ in run]
        whole = len(inside) == len([part for part in parts_of([word]) if not is_sign(part.text)])
        texts += [word.text] if whole and word.parts else inside
    return Word(" ".join(texts), positions_in([part for part, _ in parts]))
