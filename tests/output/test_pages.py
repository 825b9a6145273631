"""Explanations as pictures, pages and notebook output."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import sys
import types
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from explanations import cells, make
from PIL import Image

from dcam_fast import ops
from dcam_fast.output import html as page
from dcam_fast.output import pictures as rendering


def test_overlay_is_the_op() -> None:
    explanation = make()
    image = torch.from_numpy(explanation.image)
    expected = ops.overlay(explanation.maps, image, explanation.boxes, "viridis", 0.3)[2].numpy()
    assert (np.asarray(explanation.overlay("blue", colormap="viridis", alpha=0.3)) == expected).all()


@pytest.mark.parametrize("count", [0, 1, 4, 70])
@pytest.mark.parametrize("size", [(40, 72), (90, 20), (1, 1), (3, 500)])
def test_contact_sheet(count: int, size: tuple[int, int]) -> None:
    explanation = make(" ".join(["word"] * 80), ("word",) * count, size=size)
    sheet = explanation.contact_sheet()
    assert sheet.mode == "RGB"
    assert 100 < sheet.width < 2500
    assert 100 < sheet.height < 4000
    assert sheet.getpixel((0, 0)) == rendering.PAPER
    assert len(sheet.resize((64, 64)).getcolors(64 * 64) or ()) > 1


def test_contact_sheet_of_long_and_foreign_words() -> None:
    words = "pneumonoultramicroscopicsilicovolcanoconiosis ring/環 Ελλάδ\u03b1 <b>bold</b>"
    explanation = replace(make(words, tuple(words.split())), answer=words.replace(" ", "\n"))
    assert explanation.contact_sheet().width < 2500
    with pytest.raises(ValueError, match="at least one"):
        rendering.contact_sheet([])


def test_contact_sheet_of_several() -> None:
    alone = make().contact_sheet()
    both = rendering.contact_sheet([make(), make(targets=("red",), size=(64, 64))])
    assert both.height > alone.height / 2
    assert both.width > 300


class Page(HTMLParser):
    """Collects tags, addresses and the text outside of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = self.data = ""
        self.inside: tuple[str, dict[str, str | None]] = ("", {})
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.inside = (tag, dict(attributes))
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "action")]

    def handle_endtag(self, tag: str) -> None:
        self.inside = ("", {})

    def handle_data(self, data: str) -> None:
        tag, attributes = self.inside
        if attributes.get("id") == "data":
            self.data += data
        elif tag not in ("script", "style"):
            self.text += data


def test_page_is_self_contained() -> None:
    text = make().to_html()
    read = Page(text)
    assert all(address.startswith("data:") for address in read.addresses)
    assert not re.search(r"https?://|@import|url\(", text)
    record = json.loads(read.data)["record"]
    assert [target["name"] for target in record["targets"]] == ["red", "Ring", "blue", "ring#2"]
    assert "".join(text for text, _, _ in record["pieces"]) == make().answer
    assert len(record["boxes"]["y"]) == 3
    assert len(record["boxes"]["x"]) == 5


@pytest.mark.parametrize("tag", ["script", "style"])
def test_the_policy_of_a_page_allows_its_own_script_and_style(tag: str) -> None:
    text = make().to_html()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]  # type: ignore[index]
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    assert f"{tag}-src 'sha256-{digest}'" in html.unescape(policy)
    assert "unsafe" not in policy


def test_live_page_loads_from_the_service_alone() -> None:
    text = page.live_page("tiny <model>", "what is there?")
    read = Page(text)
    assert {"viewer.css", "viewer.js", "data:,"} == set(read.addresses)
    data = json.loads(read.data)
    assert data["live"]["model"] == "tiny <model>"
    assert data["live"]["methods"]["default"] is True
    assert data["live"]["methods"]["random"] is False
    assert data["record"] is None
    assert not re.search(r"<style|<script>|\s(?:style|on\w+)=", text)


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "</script><img/src=x>", "{{data}}", "\"&'`${1}", "环é\u0301"]
)
def test_page_escapes(text: str) -> None:
    plain = Page(make().to_html())
    explanation = replace(make(text, (text,), prompt=text), provenance={text: {text: text}})
    read = Page(explanation.to_html())
    assert read.tags.count("script") == plain.tags.count("script")
    assert read.tags.count("img") == plain.tags.count("img")
    assert read.text.count(text) >= 3
    assert json.loads(read.data)["record"]["targets"][0]["name"] == text
    assert "<script>alert" not in explanation.to_html()


def test_notebook_output_is_an_iframe() -> None:
    explanation = make("<script>alert(1)</script>", ())
    read = Page(explanation._repr_html_())
    assert read.tags == ["iframe"]


def test_page_without_targets() -> None:
    assert json.loads(Page(make("", ()).to_html()).data)["record"]["targets"] == []


def test_large_images_make_small_pages() -> None:
    height, width = 1500, 2600
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = np.stack([np.sin(x / 30) + np.cos(y / 50), np.sin(x * y / 9e4), np.cos(x / 200)], 2)
    photo = (90 * waves / 2 + 128 + np.random.default_rng(0).normal(0, 6, waves.shape)).clip(0, 255).astype(np.uint8)
    explanation = replace(
        make(" ".join(["word"] * 40), ("word",) * 40, grid=(27, 27)), image=photo, boxes=cells(height, width, 27, 27)
    )
    assert len(explanation.to_html()) < 2_000_000
    assert explanation.contact_sheet().width * explanation.contact_sheet().height < 4_000_000


def test_page_shrinks_the_image_alone() -> None:
    explanation = replace(make(), image=np.zeros((500, 2000, 3), np.uint8), boxes=cells(500, 2000, 3, 5))
    text = explanation.to_html()
    picture = re.search(r'src="data:image/\w+;base64,([^"]*)"', text)[1]  # type: ignore[index]
    assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (page.LONGEST_SIDE, page.LONGEST_SIDE // 4)
    record = json.loads(Page(text).data)["record"]
    assert record["image"] == {"height": 500, "width": 2000}
    assert record["boxes"]["x"][-1] == [1600, 2000]


def test_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(RuntimeError, match=r"^Explanation.show: needs IPython"):
        make().show()
    shown: list[str] = []
    notebook = types.SimpleNamespace(HTML=str, display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(display=notebook))
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    make().show()
    assert shown == [make()._repr_html_()]
