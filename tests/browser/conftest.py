"""A browser for the tests of the page. Every page that a test opens must be free of errors and stay on its own host."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

for folder in (Path(__file__).parent, Path(__file__).parents[1] / "output"):
    sys.path.insert(0, str(folder))  # `fake_service`, and `explanations` of the tests of output

from fake_service import FakeService  # noqa: E402

NAMES = ("chromium", "chromium-browser", "google-chrome")
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, without a window. Not for the session: playwright's event loop would run on in tests that need one."""
    api = pytest.importorskip("playwright.sync_api", reason="the pages are tested in a browser, by playwright")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"the pages are tested in a browser, and there is no {' or '.join(NAMES)}")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens an address in a page with options of its context, such as `viewport` and `color_scheme`."""
    contexts, problems = [], []

    def open_address(address: str, allowed: tuple[str, ...] = (), **options: Any) -> Any:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        contexts.append(context)
        page = context.new_page()
        home = address.partition("/")[0] if address.startswith("file:") else "/".join(address.split("/")[:3])
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on(
            "console",
            lambda message: (
                problems.append(f"{message.type}: {message.text}")
                if message.type in ("error", "warning") and not any(text in message.text for text in allowed)
                else None
            ),
        )
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((home, "data:", "blob:")) else problems.append(f"asks {request.url}")
            ),
        )
        page.goto(address)
        page.locator("#viewer").wait_for()
        return page

    yield open_address
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture
def service() -> Iterator[FakeService]:
    """A service that answers from a script; see `FakeService`."""
    with FakeService() as running:
        yield running
