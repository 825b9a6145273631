"""The live page in a browser, against a service that answers from a script."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_service import FakeService
from PIL import Image

Open = Callable[..., Any]
COLUMNS, ROWS = 5, 3


@pytest.fixture
def page(open_page: Open, service: FakeService) -> Any:
    """The live page, with its sample chosen."""
    opened = open_page(service.address)
    opened.get_by_role("button", name="noise").click()
    opened.locator("#chosen").wait_for()
    return opened


def ask(page: Any) -> None:
    page.get_by_role("button", name="Explain", exact=True).click()


def finish(page: Any, service: FakeService) -> None:
    """Asks, and waits for the whole explanation."""
    ask(page)
    service.steps.release(len(service.events()) + 1)
    page.locator('#status:text-is("Explained 4 words.")').wait_for()


def strongest_cell(page: Any, pane: int = 0) -> int:
    """The cell whose center is the brightest of the drawn map."""
    return (
        page.locator(".view .map")
        .nth(pane)
        .evaluate(
            f"""canvas => {{
            const {{ width, height }} = canvas, sums = [];
            const copy = Object.assign(document.createElement("canvas"), {{ width, height }}).getContext("2d");
            copy.drawImage(canvas, 0, 0);
            const {{ data }} = copy.getImageData(0, 0, width, height);
            for (let row = 0; row < {ROWS}; row++) for (let column = 0; column < {COLUMNS}; column++) {{
                const x = Math.floor((column + .5) / {COLUMNS} * width), y = Math.floor((row + .5) / {ROWS} * height);
                const start = 4 * (y * width + x);
                sums.push(data[start] + data[start + 1] + data[start + 2]);
            }}
            return sums.indexOf(Math.max(...sums));
        }}"""
        )
    )


def in_sight(page: Any, selector: str) -> bool:
    """Whether an element lies wholly inside the window."""
    box, window = page.locator(selector).first.bounding_box(), page.viewport_size
    return box["y"] >= 0 and box["y"] + box["height"] <= window["height"]


def wait_for_states(page: Any, masked: int, new: int, settled: int) -> None:
    for name, count in (("masked", masked), ("new", new), ("settled", settled)):
        selector = f".answer:has(.piece.{name})" if count else f".answer:not(:has(.piece.{name}))"
        page.locator(selector).wait_for()
        assert page.locator(f".answer .piece.{name}").count() == count


def test_an_answer_is_watched_while_it_is_written(page: Any, service: FakeService) -> None:
    events = service.events()
    count = len(events[0]["canvas"])
    ask(page)
    page.get_by_role("button", name="Cancel", exact=True).wait_for()
    for number, event in enumerate(events):
        service.steps.release()
        (token,) = event["tokens"]
        page.locator(f'.caption:text-is("{token["text"]}")').wait_for()
        page.locator(f'#status:has-text("Step {number}: “{token["text"].strip()}”")').wait_for()
        wait_for_states(page, count - number - 1, 1, number)
        assert strongest_cell(page) == token["position"], "the map of the word just written"
        assert page.locator(".tile").count() == number + 1
    service.steps.release()
    page.locator('#status:text-is("Explained 4 words.")').wait_for()
    wait_for_states(page, 0, 0, count)
    assert service.bodies[0]["image"].startswith("data:image/png;base64,")
    assert service.bodies[0]["prompt"] == "what is there ?"
    assert service.bodies[0]["method"] == "default"
    assert page.url.endswith("?run=run-1")


def test_a_second_question_starts_over(page: Any, service: FakeService) -> None:
    finish(page, service)
    ask(page)
    service.steps.release(2)
    page.locator('#status:has-text("Step 1: ")').wait_for()
    first, second, *_ = service.events()
    wait_for_states(page, len(first["canvas"]) - 2, 1, 1)
    page.locator(f'.caption:text-is("{second["tokens"][0]["text"]}")').wait_for()
    assert page.locator(".tile").count() == 2
    page.locator(".answer .word").first.hover()
    page.locator(f'.caption:text-is("{first["canvas"][0]["text"]}")').wait_for()
    service.steps.release(len(service.events()))
    page.locator('#status:text-is("Explained 4 words.")').wait_for()
    assert page.locator(".tile").count() == 4


def test_scrubbing_shows_the_map_of_each_step(page: Any, service: FakeService) -> None:
    finish(page, service)
    red = page.locator(".answer .word", has_text="red")
    red.click()
    page.mouse.move(1, 1)
    page.locator('.caption:text-is("red")').wait_for()
    assert strongest_cell(page) == 10, "of the explanation of the whole answer"
    for number, event in enumerate(service.events()):
        page.locator("#step").fill(str(number))
        (token,) = event["tokens"]
        page.locator(f'.caption:text-is("{token["text"]}")').wait_for()
        page.locator(f'#step-is:text-is("step {number} of {len(service.events()) - 1}")').wait_for()
        assert strongest_cell(page) == token["position"]
    red.hover()
    page.locator('.caption:text-is("red")').wait_for()
    assert strongest_cell(page) == 1, "of the step that wrote it"
    page.locator("#step").fill(str(len(service.events())))
    page.locator('#step-is:text-is("whole answer")').wait_for()
    assert strongest_cell(page) == 10


def test_a_run_can_be_canceled(page: Any, service: FakeService) -> None:
    ask(page)
    service.steps.release(2)
    page.locator('#status:has-text("Step 1: ")').wait_for()
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.locator('#status:text-is("Canceled after step 1.")').wait_for()
    assert service.gone.wait(30)
    page.get_by_role("button", name="Explain", exact=True).wait_for()
    page.locator("#step").fill("0")
    page.locator('#step-is:text-is("step 0 of 1")').wait_for()


@pytest.mark.parametrize("closes", [False, True])
def test_a_run_may_be_compared_while_it_is_written(page: Any, service: FakeService, closes: bool) -> None:
    ask(page)
    service.steps.release()
    page.locator(".answer .piece.new").wait_for()
    page.get_by_role("button", name="Compare").click()
    page.locator(".answer").nth(1).locator(".piece").first.wait_for()
    if closes:  # the pane that asked
        page.get_by_role("button", name="Compare").click()
    service.steps.release(len(service.events()))
    page.locator('#status:text-is("Explained 4 words.")').wait_for()
    answers = [page.locator(".answer").nth(pane) for pane in range(1 if closes else 2)]
    for answer in answers:
        answer.locator(".word").first.wait_for()
        assert answer.locator(".word").count() == 4
        assert answer.locator(".masked").count() == 0


def test_an_edited_answer_is_explained_beside(page: Any, service: FakeService) -> None:
    finish(page, service)
    page.get_by_role("button", name="Edit the answer and explain it again").click()
    box = page.get_by_label("Answer to explain")
    assert box.input_value() == service.explanation.answer
    box.fill("a green Ring")
    page.get_by_role("button", name="Explain this answer").click()
    page.locator(".pane").nth(1).wait_for()
    page.locator('#status:text-is("Explained 4 words.")').wait_for()
    assert service.bodies[1]["answer"] == "a green Ring"
    assert service.bodies[1]["prompt"] == service.bodies[0]["prompt"]
    assert service.bodies[1]["image"] == service.bodies[0]["image"]


def test_an_edited_answer_that_is_refused_can_be_mended(open_page: Open, service: FakeService) -> None:
    """The text stays, and the error is in sight wherever the page is scrolled to."""
    page = open_page(service.address, allowed=("422",))
    page.get_by_role("button", name="noise").click()
    page.locator("#chosen").wait_for()
    finish(page, service)
    service.failure = (422, "answer must be a text that fake can write")
    page.get_by_role("button", name="Edit the answer and explain it again").click()
    box = page.locator(".pane").first.get_by_label("Answer to explain")
    button = page.get_by_role("button", name="Explain this answer")
    assert button.bounding_box()["y"] + button.bounding_box()["height"] <= page.locator("#timeline").bounding_box()["y"]
    box.fill("a green Zebra")
    page.get_by_role("button", name="Explain this answer").click()
    page.locator("#status.error").wait_for()
    assert box.is_visible()
    assert box.input_value() == "a green Zebra"
    page.locator("#about").scroll_into_view_if_needed()
    assert in_sight(page, "#status")


def test_the_image_is_brought_into_sight(open_page: Open, service: FakeService) -> None:
    """On a small screen too, where the form fills the window; and it stays there when the answer is complete."""
    page = open_page(service.address, viewport={"width": 360, "height": 740})
    page.get_by_role("button", name="noise").click()
    page.locator("#chosen").wait_for()
    finish(page, service)
    page.locator("#submit:focus").wait_for()
    assert in_sight(page, ".view")


def test_a_contrast_is_one_click_away(page: Any, service: FakeService) -> None:
    finish(page, service)
    page.locator(".answer .word", has_text="blue").click()
    page.mouse.move(1, 1)
    page.get_by_role("button", name="Explain blue rather than other").click()
    page.locator(".pane").nth(1).locator(".word").first.wait_for()
    body = service.bodies[1]
    assert body["targets"] == [{"word": "blue", "instead": "other"}]
    assert body["tokens"] == [token.id for token in service.explanation.tokens]
    assert body["steps"] == [token.step for token in service.explanation.tokens]


def test_two_methods_side_by_side(page: Any, service: FakeService) -> None:
    finish(page, service)
    page.get_by_role("button", name="Compare").click()
    page.locator("#method").select_option("random")
    ask(page)
    page.locator('#status:text-is("Explained 4 words.")').wait_for()
    assert [body["method"] for body in service.bodies] == ["default", "random"]
    assert page.locator(".view .map:visible").count() == 2


def test_scores_and_claims_are_shown(page: Any, service: FakeService) -> None:
    finish(page, service)
    page.locator(".answer .word", has_text="red").click()
    page.mouse.move(1, 1)
    page.locator('.facts h2:text-is("red")').wait_for()
    rows = dict(text.split("\n") for text in page.locator(".facts .score").all_inner_texts())
    assert rows == {"Groundedness": "0.25", "Image share": "0.25", "Prompt share": "-", "Answer share": "0.50"}
    assert page.locator(".dots i").count() == 8, "groundedness and image share of four words"
    page.locator("#about summary").click()
    page.locator('#claims dd:text-is("The answer is explained.")').wait_for()


def test_a_link_opens_a_run(open_page: Open, service: FakeService) -> None:
    page = open_page(f"{service.address}?run=run-1")
    page.locator('.caption:text-is("ring#2")').wait_for()
    assert strongest_cell(page) == 13


def test_a_lost_run_is_an_error(open_page: Open, service: FakeService) -> None:
    page = open_page(f"{service.address}?run=other", allowed=("404",))
    page.locator('#status.error:text-is("there is no such run")').wait_for()


def test_errors_of_the_service_are_shown(open_page: Open, service: FakeService) -> None:
    service.failure = (422, "prompt must be shorter")
    page = open_page(service.address, allowed=("422",))
    ask(page)
    page.locator('#status.error:text-is("Choose an image first.")').wait_for()
    page.get_by_role("button", name="noise").click()
    page.locator("#chosen").wait_for()
    ask(page)
    page.locator('#status.error:text-is("prompt must be shorter")').wait_for()
    page.get_by_role("button", name="Explain", exact=True).wait_for()


def test_a_key_is_asked_for(open_page: Open, service: FakeService) -> None:
    service.key = "secret"
    page = open_page(service.address, allowed=("401",))
    page.locator("#file").set_input_files(
        {"name": "noise.png", "mimeType": "image/png", "buffer": png(service)}, timeout=30_000
    )
    page.locator("#chosen").wait_for()
    page.get_by_label("API key").fill("secret")
    finish(page, service)


def png(service: FakeService) -> bytes:
    file = io.BytesIO()
    Image.fromarray(service.explanation.image).save(file, "png")
    return file.getvalue()


def test_images_are_dropped_and_pasted(open_page: Open, service: FakeService) -> None:
    page = open_page(service.address)
    for kind, field in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """async ([kind, field]) => {
                const canvas = document.createElement("canvas"), data = new DataTransfer();
                canvas.width = kind.length;
                const blob = await new Promise(resolve => canvas.toBlob(resolve));
                data.items.add(new File([blob], "a.png", { type: "image/png" }));
                const Kind = kind === "drop" ? DragEvent : ClipboardEvent;
                window.dispatchEvent(new Kind(kind, { [field]: data }));
            }""",
            [kind, field],
        )
        page.locator("#chosen").wait_for()
    page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no image"})
    page.locator('#status.error:has-text("cannot show the file")').wait_for()


@pytest.mark.parametrize(
    ("button", "name"), [("Arrays (NPZ)", "maps.npz"), ("Offline page (HTML)", "explanation.html")]
)
def test_files_of_a_run_are_downloaded(page: Any, service: FakeService, button: str, name: str) -> None:
    finish(page, service)
    page.locator("#export summary").click()
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    assert download.value.suggested_filename == name
    assert Path(download.value.path()).stat().st_size > 100


@pytest.mark.parametrize("width", [360, 3840])
def test_the_live_page_fits(open_page: Open, service: FakeService, width: int) -> None:
    page = open_page(service.address, viewport={"width": width, "height": 740})
    page.get_by_role("button", name="noise").click()
    page.locator(".more summary").click()
    finish(page, service)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
