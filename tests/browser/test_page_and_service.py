"""The live page against the service itself, with the embedded model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dcam_fast import Explainer

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a service of the embedded model."""
    from dcam_fast.service import ServiceSettings, create_app, server

    with server.listen("127.0.0.1", 0) as listener:
        running = server.server_of(create_app(Explainer.from_pretrained("tiny"), ServiceSettings()))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        yield server.url_of(listener) + "/"
        running.should_exit = True
        thread.join()


def wait_for_explanation(page: Any, pane: int) -> None:
    page.locator("#cancel").wait_for(state="hidden")
    page.locator(".pane").nth(pane).locator(".tile").first.wait_for()
    assert page.locator("#status.error").count() == 0, page.locator("#status").inner_text()


def test_ask_contrast_edit_and_come_back(open_page: Open, address: str) -> None:
    page = open_page(address)
    page.locator("#samples button").first.click()
    page.locator("#chosen").wait_for()
    page.get_by_role("button", name="Explain", exact=True).click()
    page.locator('#status:has-text("Explained ")').wait_for()
    wait_for_explanation(page, 0)
    first = page.locator(".pane").first
    answer = "".join(first.locator(".answer .piece-text").all_inner_texts())
    assert page.locator("#step").get_attribute("max") != "0", "the steps stay"
    assert "?run=" in page.url
    link = page.url

    first.get_by_role("button", name="rather than").first.click()
    page.locator('.pane:nth-child(2) .facts h2:has-text("rather than")').wait_for()
    wait_for_explanation(page, 1)

    first.get_by_role("button", name="Edit the answer and explain it again").click()
    box = first.get_by_label("Answer to explain")
    edited = "a red ring on a plain background"
    box.fill(edited)
    first.get_by_role("button", name="Explain this answer").click()
    page.locator('.pane:nth-child(2) .piece-text:text-is("ring")').wait_for()
    wait_for_explanation(page, 1)
    texts = page.locator(".pane").nth(1).locator(".answer .piece-text").all_inner_texts()
    assert "".join(texts) == edited.replace(" ", "")

    page.goto(link)
    page.locator(".tile").first.wait_for()
    assert "".join(page.locator(".answer .piece-text").all_inner_texts()) == answer


def test_a_method_without_steps(open_page: Open, address: str) -> None:
    page = open_page(address)
    page.locator("#samples button").nth(1).click()
    page.locator("#chosen").wait_for()
    page.locator("#method").select_option("random")
    page.get_by_role("button", name="Explain", exact=True).click()
    page.locator('#status:has-text("Explained ")').wait_for()
    wait_for_explanation(page, 0)
