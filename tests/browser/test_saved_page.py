"""Saved pages in a browser: words, maps, timeline, panes, keyboard, colors and sizes."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from explanations import make
from PIL import Image

from dcam_fast import ops
from dcam_fast.explanation import Explanation
from dcam_fast.output.html import COLORMAPS

Open = Callable[..., Any]
NAMES = ["red", "Ring", "blue", "ring#2"]


@pytest.fixture
def opened(open_page: Open, tmp_path: Path) -> Open:
    """Opens the saved page of an explanation, from a file."""

    def open_explanation(explanation: Explanation, **options: Any) -> Any:
        path = tmp_path / "page.html"
        path.write_text(explanation.to_html(), "utf-8")
        return open_page(path.as_uri(), **options)

    return open_explanation


def picture(page: Any) -> np.ndarray:
    """The exported picture of the active pane."""
    page.locator("#export summary").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Picture (PNG)").click()
    return np.array(Image.open(io.BytesIO(Path(download.value.path()).read_bytes())).convert("RGB"))


def wait_for_caption(page: Any, name: str) -> None:
    """Waits until the map of a word is shown."""
    page.locator(f'.caption:text-is("{name}")').wait_for()


def word(page: Any, name: str) -> Any:
    return page.locator(".answer .word", has_text=name).first


def rounded(explanation: Explanation) -> Explanation:
    """With maps that 8 bits hold exactly."""
    return replace(explanation, maps=(explanation.maps * 255).round() / 255)


@pytest.mark.parametrize("colormap", COLORMAPS)
@pytest.mark.parametrize(("size", "grid"), [((40, 72), (3, 5)), ((61, 33), (7, 4)), ((16, 16), (1, 1))])
def test_the_page_draws_as_the_op(opened: Open, colormap: str, size: tuple[int, int], grid: tuple[int, int]) -> None:
    explanation = rounded(make(size=size, grid=grid))
    boxes = explanation.boxes.clone()
    boxes[..., 0::2] = boxes[..., 0::2] * 0.75 + size[1] / 8  # a part of the image that the model does not see
    explanation = replace(explanation, boxes=boxes)
    page = opened(explanation)
    page.locator("#colormap").select_option(colormap)
    page.locator("#opacity").fill("50")
    word(page, "blue").click()
    image = torch.from_numpy(explanation.image)
    expected = ops.overlay(explanation.maps, image, boxes, colormap, 0.5)[2].numpy()
    difference = np.abs(picture(page).astype(int) - expected)
    assert difference.max() <= 4, "one entry of the color table, by rounding"
    assert difference.mean() < 0.1


def test_values_below_the_threshold_keep_the_image(opened: Open) -> None:
    explanation = rounded(make())
    page = opened(explanation)
    page.locator("#opacity").fill("100")
    page.locator("#threshold").fill("60")
    word(page, "red").click()
    values = ops.upsample(explanation.maps, explanation.boxes, explanation.image.shape[:2])[0].numpy()
    kept = (picture(page) == explanation.image).all(-1)
    assert kept[values < 0.59].all()
    assert not kept[values > 0.61].any()


def test_pointing_at_a_word_shows_its_map(opened: Open) -> None:
    page = opened(make())
    wait_for_caption(page, "ring#2")  # the word with the most groundedness
    for name in ("red", "Ring", "blue"):
        word(page, name).hover()
        wait_for_caption(page, name)
        assert page.locator(".facts h2").inner_text() == name
    page.mouse.move(1, 1)
    wait_for_caption(page, "ring#2")


def test_a_click_pins_and_a_second_releases(opened: Open) -> None:
    page = opened(make())
    word(page, "blue").click()
    page.mouse.move(1, 1)
    wait_for_caption(page, "blue")
    word(page, "blue").click()
    page.mouse.move(1, 1)
    page.locator(".view .map").wait_for(state="hidden")


def expected_shares(explanation: Explanation, rectangle: tuple[float, ...]) -> list[float]:
    left, top, right, bottom = rectangle
    x0, y0, x1, y1 = explanation.boxes.unbind(-1)
    across = (x1.clamp(max=right) - x0.clamp(min=left)).clamp(min=0) / (x1 - x0)
    down = (y1.clamp(max=bottom) - y0.clamp(min=top)).clamp(min=0) / (y1 - y0)
    return ((explanation.maps * across * down).sum((1, 2)) / explanation.maps.sum((1, 2))).tolist()


def test_brushing_the_image_lists_the_words_that_looked_there(opened: Open) -> None:
    explanation = rounded(make())
    page = opened(explanation)
    box = page.locator(".view").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 8, box["y"] + box["height"] / 8)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=3)
    page.mouse.up()
    page.locator(".inside li").first.wait_for()
    shares = dict(zip(NAMES, expected_shares(explanation, (9, 5, 36, 20)), strict=True))
    names = page.locator(".inside li button").all_inner_texts()
    assert sorted(names) == sorted(NAMES)
    assert [shares[name] for name in names] == pytest.approx(sorted(shares.values(), reverse=True), abs=0.02)
    listed = [int(text.removesuffix(" %")) for text in page.locator(".inside .number").all_inner_texts()]
    assert listed == pytest.approx([100 * shares[name] for name in names], abs=2)
    page.get_by_role("button", name="Clear selection").click()
    page.locator(".inside").wait_for(state="hidden")


def test_the_image_is_brushed_by_keyboard(opened: Open) -> None:
    page = opened(make())
    page.locator(".view").focus()
    page.keyboard.press("ArrowLeft")
    brush = page.locator(".brush")
    brush.wait_for()
    before = brush.bounding_box()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    after = brush.bounding_box()
    assert after["x"] < before["x"]
    assert after["width"] == pytest.approx(before["width"], abs=1)
    assert after["height"] > before["height"]
    assert page.locator("#status").inner_text().startswith("Looked at the selection: “")
    page.keyboard.press("Escape")
    brush.wait_for(state="hidden")


def states(page: Any) -> dict[int, str]:
    """The state of each token by its place in the answer."""
    classes = page.locator(".answer .piece").evaluate_all("list => list.map(part => part.className)")
    kinds = ("masked", "new", "settled")
    return {index: next(kind for kind in kinds if kind in text.split()) for index, text in enumerate(classes)}


def test_the_timeline_unmasks_tokens(opened: Open) -> None:
    explanation = make()
    page = opened(explanation)
    assert set(states(page).values()) == {"settled"}
    slider = page.locator("#step")
    for step in (0, 2):
        slider.fill(str(step))
        page.locator(f'#step-is:text-is("step {step} of 3")').wait_for()
        expected = {
            token.position: "masked" if token.step > step else "new" if token.step == step else "settled"
            for token in explanation.tokens
        }
        assert states(page) == expected
        texts = page.locator(".answer .piece.masked").evaluate_all("list => list.map(part => part.ariaLabel)")
        assert set(texts) == {"masked"}


def test_the_timeline_plays_to_its_end(opened: Open) -> None:
    page = opened(make())
    page.locator("#speed").select_option("4")
    page.get_by_role("button", name="Play").click()
    page.locator(".timeline.playing").wait_for()
    page.locator(".timeline:not(.playing)").wait_for()
    assert page.locator("#step").input_value() == "3"
    page.get_by_role("button", name="Step back").click()
    page.locator('#step-is:text-is("step 2 of 3")').wait_for()
    assert page.locator("#step").input_value() == "2"


def test_two_panes_share_colors_and_the_timeline(opened: Open) -> None:
    page = opened(make())
    page.get_by_role("button", name="Compare").click()
    panes = page.locator(".pane")
    assert panes.count() == 2
    panes.nth(0).locator(".word", has_text="blue").click()
    panes.nth(1).locator(".word", has_text="Ring").first.click()
    page.mouse.move(1, 1)
    panes.nth(0).locator('.caption:text-is("blue")').wait_for()
    panes.nth(1).locator('.caption:text-is("Ring")').wait_for()
    page.locator("#step").fill("0")
    for index in range(2):
        panes.nth(index).locator(".masked").first.wait_for()
    masked = page.locator(".pane").evaluate_all("list => list.map(pane => pane.querySelectorAll('.masked').length)")
    assert masked[0] == masked[1]
    page.get_by_role("button", name="Compare").click()
    assert panes.count() == 1


def test_everything_by_keyboard(opened: Open) -> None:
    page = opened(make())
    page.keyboard.press("Tab")
    seen = []
    for _ in range(40):
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.className.split(' ')[0]"))
        if seen[-1] == "piece":
            break
        page.keyboard.press("Tab")
    assert {"compare", "theme", "colormap", "opacity", "threshold", "grid", "view", "piece"} <= set(seen)
    wait_for_caption(page, "red")  # focus shows the word's map
    page.keyboard.press("ArrowRight")
    wait_for_caption(page, "Ring")
    page.keyboard.press("Enter")
    page.locator('.piece[aria-pressed="true"]:focus').wait_for()
    page.keyboard.press("End")
    wait_for_caption(page, "ring#2")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className").startswith("tile")


def test_controls_have_names(opened: Open) -> None:
    page = opened(make())
    nameless = page.locator("button, input, select, [role=button], summary").evaluate_all(
        """list => list.filter(item => item.checkVisibility() && !(item.ariaLabel || item.textContent.trim() ||
            [...(item.labels ?? [])].some(label => label.textContent.trim()))).map(item => item.outerHTML)"""
    )
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_follow_the_system_and_the_button(opened: Open, scheme: str) -> None:
    page = opened(make(), color_scheme=scheme)
    ground = "parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]) < 128"
    assert page.evaluate(ground) is (scheme == "dark")
    page.get_by_role("button", name="Dark colors").click()
    assert page.evaluate(ground) is (scheme == "light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast(opened: Open, scheme: str) -> None:
    """Text on the page and on cards has a contrast of at least 4.5."""
    page = opened(make(), color_scheme=scheme)
    ratios = page.evaluate(
        """() => {
            const style = getComputedStyle(document.documentElement);
            const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
            const light = name => {
                probe.fillStyle = style.getPropertyValue(name).trim();
                probe.fillRect(0, 0, 1, 1);
                const [r, g, b] = [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3)
                    .map(value => value / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const pairs = [];
            const grounds = ["--ground", "--card"];
            for (const text of ["--ink", "--muted", "--accent", "--warn"]) for (const ground of grounds) {
                const [a, b] = [light(text), light(ground)];
                pairs.push([text, ground, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
            }
            return pairs;
        }"""
    )
    assert [pair for pair in ratios if pair[2] < 4.5] == []


LONG = "pneumonoultramicroscopicsilicovolcanoconiosis"


@pytest.mark.parametrize("width", [360, 1920, 3840])
def test_no_width_scrolls_sideways(opened: Open, width: int) -> None:
    explanation = make(f"{LONG} " * 30, (LONG,) * 12, size=(90, 160), prompt=LONG * 4)
    explanation = replace(explanation, provenance={"model": LONG * 5, "layers": list(range(80))})
    page = opened(explanation, viewport={"width": width, "height": 740})
    page.locator("#about summary").click()
    page.get_by_role("button", name="Compare").click()
    page.locator(".pane").nth(1).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_answers_read_in_the_direction_of_their_script(opened: Open) -> None:
    explanation = make("دائرة حمراء كبيرة", ("دائرة", "حمراء"))
    page = opened(explanation)
    assert page.locator(".answer").evaluate("answer => getComputedStyle(answer).direction") == "rtl"
    first, second = (word(page, text).bounding_box() for text in ("دائرة", "حمراء"))
    assert first["x"] > second["x"]
    word(page, "دائرة").focus()
    page.keyboard.press("ArrowLeft")
    wait_for_caption(page, "حمراء")


@pytest.mark.parametrize("text", ["<img/src=x/onerror=alert(1)>", "</script><script>alert(1)</script>", "${1}{{2}}"])
def test_texts_never_become_elements(opened: Open, text: str) -> None:
    explanation = replace(make(text, (text,), prompt=text), provenance={text: {text: text}, "claims": {}})
    page = opened(explanation)
    page.locator("#about summary").click()
    page.locator("#claims table").first.wait_for()
    assert page.locator(".caption").inner_text() == text
    assert page.locator(".prompt").inner_text() == text
    assert page.evaluate("[...document.images].every(image => !image.src || image.src.startsWith('data:'))")


def test_claims_come_before_the_data(opened: Open) -> None:
    claims = {"held_fixed": {"text": "The other words are held fixed.", "state": "remask"}}
    page = opened(replace(make(), provenance={"claims": claims, "model": "none", "share": 0.123456789}))
    page.locator("#about summary").click()
    page.locator("#claims dl").wait_for()
    text = page.locator("#claims").inner_text()
    assert text.index("The other words are held fixed.") < text.index("none")
    assert "0.1235" in text
    assert "[object" not in text


def test_an_answer_without_targets(opened: Open) -> None:
    page = opened(make("a red ring", ()))
    wait_for_caption(page, "No word of this answer was explained.")
    assert page.locator(".answer .piece-text").all_inner_texts() == ["a", "red", "ring"]
    page = opened(make("", ()))
    assert page.locator(".answer").inner_text() == "no answer"


def test_cells_are_drawn_on_request(opened: Open) -> None:
    page = opened(make())
    page.locator(".cells").wait_for(state="hidden")
    page.locator("#grid").check()
    page.locator(".cells").wait_for()
    drawn = (
        "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(value => value)"
    )
    assert page.locator(".cells").evaluate(drawn)


def test_the_record_can_be_taken_along(opened: Open) -> None:
    page = opened(make())
    page.locator("#export summary").click()
    assert page.locator("#export button:visible").count() == 3, "what needs a service is not offered"
    with page.expect_download() as download:
        page.get_by_role("button", name="Record (JSON)").click()
    assert download.value.suggested_filename == "explanation.json"
    assert '"schema": 1' in Path(download.value.path()).read_text("utf-8")


def test_a_notebook_shows_the_page_in_a_frame(open_page: Open, tmp_path: Path) -> None:
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f"<!DOCTYPE html><p id=viewer>notebook</p>{make()._repr_html_()}", "utf-8")
    frame = open_page(notebook.as_uri()).frame_locator("iframe")
    frame.locator('.caption:text-is("ring#2")').wait_for()


def test_an_answer_of_unknown_steps_has_no_timeline(opened: Open) -> None:
    explanation = make()
    tokens = tuple(replace(token, step=None) for token in explanation.tokens)
    page = opened(replace(explanation, tokens=tokens))
    wait_for_caption(page, "ring#2")
    assert not page.locator("#timeline").is_visible()
    assert set(states(page).values()) == {"settled"}
    assert "step" not in page.locator(".facts").inner_text()


def test_scores_that_were_not_requested_are_dashes(opened: Open) -> None:
    explanation = make()
    targets = tuple(replace(target, groundedness=None) for target in explanation.targets)
    page = opened(replace(explanation, targets=targets))
    wait_for_caption(page, "red")
    assert page.locator(".facts .score .number").all_inner_texts()[0] == "-"
    assert page.locator(".tile .label").first.inner_text().split() == ["red", "-"]
    assert not page.locator(".dots i").count()
