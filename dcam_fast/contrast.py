"""`Contrast`: a target that compares a word of the answer with another word in its place."""

from __future__ import annotations

from dataclasses import dataclass

from dcam_fast.checks import check_whole
from dcam_fast.words import split_parts


@dataclass(frozen=True)
class Contrast:
    """A target: why the model writes a word rather than another one in its place.

    Its map comes from the gradient of `log p(word) - log p(instead)`, both summed over their tokens. The place of the
    word is masked as a whole, in addition to what the answer state masks, and both are read from that canvas. If their
    numbers of tokens differ, `instead` has a separate canvas with as many masks as it has tokens. The text after it
    then moves, and positions that become free at the end are masked.

    Attributes:
        word: a word or phrase of the answer. `"ring#2"` is the second ring.
        instead: the word or phrase that it is compared with. It need not occur in the answer.

    Raises:
        TypeError: if one of them is not a str.
        ValueError: if one of them has no word or sign in it, or half of a character.

    Example:
        >>> from dcam_fast import Contrast, Explainer, sample_image
        >>> explainer = Explainer.from_pretrained("tiny")
        >>> explanation = explainer.explain(sample_image(), targets=[Contrast("circle", "star")])
        >>> explanation.names
        ('circle > star',)
    """

    word: str
    instead: str

    def __post_init__(self) -> None:
        for name in ("word", "instead"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise TypeError(f"Contrast: {name} must be a str, got {value!r}")
            check_whole("Contrast", name, value)
            if not split_parts(value):
                raise ValueError(f"Contrast: {name} must be words or a sign, got {value!r}")

    def __str__(self) -> str:
        """As results and messages name it.

        >>> print(Contrast("red", "blue"))
        red > blue
        """
        return f"{self.word} > {self.instead}"


def split_contrast(target: str) -> str | Contrast:
    """A target as the command line writes it: `"red>blue"` is a contrast.

    A `>` without text on both sides is a sign of the answer. A phrase with a `>` in it is found without it as well,
    because a phrase need not have the signs between its words.

    >>> split_contrast("red > blue")
    Contrast(word='red', instead='blue')
    >>> split_contrast(">")
    '>'
    """
    word, _, instead = target.partition(">")
    return Contrast(word.strip(), instead.strip()) if split_parts(word) and split_parts(instead) else target
