"""Phrases that the vocabulary of docs/glossary.md replaces. Single words are in _typos.toml."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A regular expression for each phrase, and the standard term.
PHRASES = {
    r"ways? back": "backward pass",
    r"(?:explained|deepest|lowest|highest) blocks?": "target layer",
    r"blocks? (?:above|below|of the model)": "layer",
    r"behind (?:a|the|this|that|one|each|every|some|its|any)\b(?: \w+)? (?:block|layer)s?": "at the output of",
    r"in front of": "before",
    r"the same bits|bit for bit": "bitwise identical",
    r"paint(?:s|ed|ing)? (?:it |them )?over": "mask out",
    r"stand-ins?|stands? in for|stood in for": "stub",
    r"at hand|to hand": "available",
    r", for (?:it|they|there) (?:is|are|has|have)": "because",
    r"(?:is|are|was|were) (?-i:none)\b": "there is no",
    r"of (?:its|their|one's) own": "separate",
    r"as one would": "usual",
    r"what ran": "tested with",
    r"cannot be had": "not supported",
}
SUFFIXES = {".c", ".cpp", ".css", ".cu", ".cuh", ".h", ".html", ".js", ".md", ".py", ".toml", ".yaml", ".yml", ""}
EXCLUDED = (
    "LICENSE",
    "benchmarks/results/",
    "dcam_fast/models/tiny/weights/",
    "tests/data/",
    "tests/test_vocabulary.py",
)
# Line breaks inside a sentence, with the comment sign of the next line.
BREAK = re.compile(r"\s*\n\s*(?:#|//+|\*)?\s*")


def tracked_files() -> list[str]:
    """Source and documentation files under version control."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in listing.stdout.splitlines() if not name.startswith(EXCLUDED)]
    return [name for name in names if (ROOT / name).suffix in SUFFIXES and (ROOT / name).is_file()]


def found_in(text: str) -> Iterator[str]:
    """The phrases in a text, with the term to use."""
    line = BREAK.sub(" ", text)
    for phrase, term in PHRASES.items():
        for match in re.finditer(rf"\b(?:{phrase})\b" if phrase[0] != "," else phrase, line, re.IGNORECASE):
            yield f"{match[0]!r}: use {term!r}"


def test_standard_terms() -> None:
    found = [f"{name}: {hit}" for name in tracked_files() for hit in found_in((ROOT / name).read_text("utf-8"))]
    assert not found, f"{len(found)} phrases\n" + "\n".join(found)


def test_phrases_are_found_across_lines() -> None:
    assert list(found_in("One way\n    # back.")) == ["'way back': use 'backward pass'"]
    assert list(found_in("the weights are at\nhand")) == ["'at hand': use 'available'"]
    assert not list(found_in("one backward pass, bitwise identical"))
