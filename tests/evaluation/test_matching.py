from __future__ import annotations

import numpy as np
import pytest

from dcam_fast.evaluation.datasets import Region, Sample
from dcam_fast.evaluation.datasets.coco import category_terms
from dcam_fast.evaluation.datasets.matching import find_terms, head_of, named_words, plural, spoken_parts
from dcam_fast.evaluation.datasets.terms import COCO_SYNONYMS
from dcam_fast.models.adapter import Word
from dcam_fast.words import words_in


@pytest.mark.parametrize(
    ("single", "many"),
    [
        ("dog", "dogs"),
        ("bench", "benches"),
        ("puppy", "puppies"),
        ("toy", "toys"),
        ("wine glass", "wine glasses"),
        ("knife", "knives"),
        ("computer mouse", "computer mice"),
        ("policeman", "policemen"),
        ("person", "people"),
        ("sheep", "sheep"),
        ("bus", "buses"),
        ("box", "boxes"),
        ("shrimp boat", "shrimp boats"),
    ],
)
def test_plural_of_words_and_phrases(single: str, many: str) -> None:
    assert plural(single) == many


@pytest.mark.parametrize(
    ("phrase", "head"),
    [
        ("A woman in red", "woman"),
        ("old trees", "trees"),
        ("the group of people", "group"),
        ("The man wearing a hat", "man"),
        ("Sky", "sky"),
        ("his “red” T-shirt", "t-shirt"),
        ("...", "..."),
    ],
)
def test_head_noun_of_a_phrase(phrase: str, head: str) -> None:
    assert head_of(phrase) == head


def test_spoken_parts_have_no_punctuation() -> None:
    words, offsets = spoken_parts("Zwei Kätzchen, a t-shirt & the dog's café.")
    assert words == ["zwei", "kätzchen", "a", "t", "shirt", "the", "dog", "'s", "café"]
    assert offsets[1] == (5, 13)
    assert spoken_parts("") == ([], [])


def test_longer_terms_match_first_and_no_word_matches_twice() -> None:
    words = ["a", "dog", "eats", "a", "hot", "dog", "near", "dogs"]
    found = find_terms(words, [("dog", "dogs"), ("hot dog", "hot dogs")])
    assert found == [(0, 1, 2), (1, 4, 6), (0, 7, 8)]
    assert find_terms(words, [("hot dog stand",), ()]) == []


def test_coco_terms_are_disjoint() -> None:
    categories: dict[str, set[str]] = {}
    for category in COCO_SYNONYMS:
        for term in category_terms(category):
            categories.setdefault(term, set()).add(category)
    assert {term: names for term, names in categories.items() if len(names) > 1} == {}


def sample(caption: str = "") -> Sample:
    masks = np.ones((2, 2), bool)
    regions = (
        Region("dog", masks, ((2, 5),), ("dog", "puppy")),
        Region("red ball", masks, ((14, 21),), ("red ball", "ball")),
    )
    return Sample("x", np.zeros((2, 2, 3), np.uint8), None, caption, regions)


def words(text: str) -> tuple[Word, ...]:
    return tuple(Word(word, (i,)) for i, word in enumerate(text.split()))


def test_spans_match_the_words_of_the_caption() -> None:
    named = named_words(words("A dog with a red ball ."), sample("a dog with a red ball."))
    assert named == [(Word("dog", (1,)), 0), (Word("red ball", (4, 5)), 1)], "a span holds the words that it touches"


def test_terms_match_the_words_of_another_answer() -> None:
    named = named_words(words("The red ball, and Puppy. Dogs"), sample("a dog with a red ball."))
    assert named == [(Word("red ball", (1, 2)), 1), (Word("Puppy", (4,)), 0)]
    assert named_words((), sample("")) == []
    assert named_words(words("nothing of it"), sample()) == []


def test_compounds_do_not_match_their_words() -> None:
    alone = sample()
    blocked = Sample("x", alone.image, None, "", alone.regions, ("hot dog", "red ball"))
    assert named_words(words("a hot dog a dog a red ball"), blocked) == [
        (Word("dog", (4,)), 0),
        (Word("red ball", (6, 7)), 1),
    ], "a region's own phrase comes first"
    assert named_words(words("a hot dog"), alone) == [(Word("dog", (2,)), 0)]


def test_words_of_several_tokens_and_parts_match() -> None:
    answer = (Word("red/ball", (0, 1)), Word("dog", (2, 3)))
    assert named_words(answer, sample()) == [(Word("red ball", (0, 1)), 1), (Word("dog", (2, 3)), 0)]


@pytest.mark.parametrize("mark", ['"{}"', "({})", "**{}**", "{}'s", "{}-shaped", "«{}»", "the-{}", "{}…", "{}\u2019s"])
@pytest.mark.parametrize("caption", ["", "it is marked"])
def test_words_match_next_to_punctuation_and_in_compounds(mark: str, caption: str) -> None:
    """The match has only the token of the word."""
    text = f"a {mark.format('puppy')} sits"
    start = text.index("puppy")
    spans = [(0, 1), (2, start), (start, start + 5), (start + 5, len(text) - 5), (len(text) - 4, len(text))]
    assert named_words(words_in(text, spans), sample(caption)) == [(Word("puppy", (2,)), 0)]
    if caption:
        said = Sample(
            "x",
            np.zeros((2, 2, 3), np.uint8),
            None,
            text,
            (Region("x", np.ones((2, 2), bool), ((start, start + 5),), ()),),
        )
        assert named_words(words_in(text, spans), said) == [(Word("puppy", (2,)), 0)]


def test_terms_are_folded_like_answers() -> None:
    region = Region("shirt", np.ones((2, 2), bool), (), ("T-shirt", "caf\u00e9"))
    sample_with_terms = Sample("x", np.zeros((2, 2, 3), np.uint8), None, "", (region,))
    text = "a t-shirt, a cafe\u0301"
    answer = words_in(text, [(0, 1), (2, 3), (3, 4), (4, 9), (9, 10), (11, 12), (13, len(text))])
    assert named_words(answer, sample_with_terms) == [(Word("t-shirt", (1, 3)), 0), (Word("cafe\u0301", (6,)), 0)]
