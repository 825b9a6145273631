"""The live page in a browser, against the service itself with the embedded model."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "service"))

from serving import listening

from dcam_fast import Explainer

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with listening(Explainer.from_pretrained("tiny")) as url:
        yield f"{url}/"


def letters(page: Any) -> str:
    """The answer without spaces, signs and the numbers of steps."""
    return re.sub("[^a-z]", "", page.locator(".answer").first.inner_text())


def test_a_sample_is_explained_and_its_link_opens_again(open_page: Open, address: str) -> None:
    page = open_page(address)
    page.get_by_role("button", name="scene 1").click()
    page.locator("#chosen").wait_for()
    page.get_by_role("button", name="Explain", exact=True).click()
    page.locator("#status", has_text=re.compile(r"Explained \d+ words")).wait_for(timeout=120_000)
    assert page.locator(".answer .piece").count() > 10
    link = page.url
    assert "?run=" in link
    words = letters(page)
    again = open_page(link)
    again.locator(".answer .piece").first.wait_for()
    assert letters(again) == words
