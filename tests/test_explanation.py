from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dcam_fast import ops
from dcam_fast.explained import Target, Token
from dcam_fast.explanation import Explanation
from dcam_fast.output import files as storage
from dcam_fast.output import html as page
from dcam_fast.output import pictures as rendering
from dcam_fast.output.files import file_names


def cells(height: int, width: int, rows: int, columns: int) -> torch.Tensor:
    """Pixel boxes [rows, columns, 4] that tile an image."""
    x, y = torch.arange(columns + 1) * width / columns, torch.arange(rows + 1) * height / rows
    boxes = torch.empty(rows, columns, 4)
    boxes[..., 0], boxes[..., 2] = x[:-1], x[1:]
    boxes[..., 1], boxes[..., 3] = y[:-1, None], y[1:, None]
    return boxes


def make(
    words: str = "a red Ring , and a blue ring",
    targets: tuple[str, ...] = ("red", "Ring", "blue", "ring"),
    *,
    size: tuple[int, int] = (40, 72),
    grid: tuple[int, int] = (3, 5),
    prompt: str = "what is there ?",
) -> Explanation:
    """An explanation of a noisy picture; each target is the next word of that text."""
    rng = np.random.default_rng(0)
    texts = words.split()
    tokens = tuple(Token(text, 7 * i, i, (3 * i) % 4) for i, text in enumerate(texts))
    chosen, start = [], 0
    for i, text in enumerate(targets):
        start = texts.index(text, start)
        chosen.append(Target(text, (start,), 1.5, 0.25, (i + 1) / max(len(targets), 1)))
        start += 1
    raw = torch.from_numpy(rng.random((len(targets), *grid), np.float32))
    return Explanation(
        image=rng.integers(0, 256, (*size, 3), np.uint8),
        prompt=prompt,
        answer=" ".join(texts),
        tokens=tokens,
        targets=tuple(chosen),
        maps=raw**2,
        raw_maps=raw,
        boxes=cells(*size, *grid),
        provenance={"model": "none", "blocks": [0, 1], "seconds": {"generate": 0.25}},
    )


def same(first: Explanation, second: Explanation) -> bool:
    arrays = ("maps", "raw_maps", "boxes")
    rest = ("prompt", "answer", "tokens", "targets", "provenance")
    return (
        all(torch.equal(getattr(first, name), getattr(second, name)) for name in arrays)
        and all(getattr(first, name) == getattr(second, name) for name in rest)
        and bool((first.image == second.image).all())
    )


@pytest.mark.parametrize(
    ("target", "index"),
    [("red", 0), ("RING", 1), ("ring#1", 1), ("ring#2", 3), (" blue ", 2), (0, 0), (np.int64(3), 3)],
)
def test_find(target: str | int, index: int) -> None:
    explanation = make()
    assert explanation.find(target) == index
    assert torch.equal(explanation.map(target), explanation.maps[index])


@pytest.mark.parametrize("target", ["dog", "ring#3", "ring#0", "red#2", "", "#", 4, -1])
def test_find_says_what_there_is(target: str | int) -> None:
    with pytest.raises(ValueError, match=r"^Explanation.find: target must be one of 'red', 'Ring', 'blue', 'ring#2'"):
        make().find(target)


def test_find_without_targets() -> None:
    with pytest.raises(ValueError, match="no targets"):
        make(targets=()).find("ring")
    with pytest.raises(TypeError):
        make().find(1.5)  # type: ignore[arg-type]


def test_pieces_are_the_answer() -> None:
    explanation = make()
    pieces = explanation.pieces()
    assert "".join(piece.text for piece in pieces) == explanation.answer
    assert [piece.text for piece in pieces if piece.target is not None] == ["red", "Ring", "blue", "ring"]
    assert [piece.target for piece in pieces if piece.target is not None] == [0, 1, 2, 3]


def test_pieces_of_subword_tokens() -> None:
    texts = ["A", " ring", "let", "\ufffd", "\ufffd", " ring", "<end>"]
    tokens = tuple(Token(text, i, i, 0) for i, text in enumerate(texts))
    targets = (
        Target("ringlet", (1, 2), 1, 0, 1),
        Target("A ringlet", (0, 1, 2), 1, 0, 1),
        Target("ring", (5,), 1, 0, 1),
    )
    maps = torch.zeros(3, 3, 5)
    explanation = replace(make(), answer="A ringlet 環 ring", tokens=tokens, targets=targets, maps=maps, raw_maps=maps)
    owned = [(piece.text, piece.target) for piece in explanation.pieces() if piece.token]
    assert owned == [("A", 1), ("ring", 0), ("let", 0), ("環", None), ("ring", 2)]
    assert "".join(piece.text for piece in explanation.pieces()) == explanation.answer


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image", np.zeros((4, 4), np.uint8), r"image must be uint8 \[H, W, 3\], got uint8 \[4, 4\]"),
        ("image", np.zeros((4, 4, 3)), "got float64"),
        ("maps", torch.zeros(3, 3, 5), r"maps must be float32 \[4, h, w\]"),
        ("maps", torch.zeros(4, 3, 5, dtype=torch.float64), "got torch.float64"),
        ("raw_maps", torch.zeros(4, 5, 3), r"raw_maps must be float32 \[4, 3, 5\]"),
        ("boxes", torch.zeros(3, 5), r"boxes must be float32 \[3, 5, 4\]"),
        ("targets", (Target("x", (0,), float("nan"), 0, 0),) * 4, "finite scores"),
    ],
)
def test_what_does_not_fit(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^Explanation: .*{message}"):
        replace(make(), **{field: value})


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
    with pytest.raises(ValueError, match="one at least"):
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


def test_page_needs_nothing_from_elsewhere() -> None:
    text = make().to_html()
    read = Page(text)
    assert all(address.startswith("data:") for address in read.addresses)
    assert not re.search(r"https?://|@import|url\(", text)
    data = json.loads(read.data)
    assert [target["name"] for target in data["targets"]] == ["red", "Ring", "blue", "ring#2"]
    assert "".join(piece[0] for piece in data["pieces"]) == make().answer
    assert len(data["rows"]) == 3
    assert len(data["columns"]) == 5


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "</script><img/src=x>", "{{data}}", "\"&'`${1}", "环é\u0301"]
)
def test_page_escapes(text: str) -> None:
    plain = Page(make().to_html())
    explanation = replace(make(text, (text,), prompt=text), provenance={text: {text: text}})
    read = Page(explanation.to_html())
    assert read.tags.count("script") == plain.tags.count("script")
    assert read.tags.count("img") == plain.tags.count("img")
    assert read.text.count(text) >= 4
    assert json.loads(read.data)["targets"][0]["name"] == text
    assert "<script>alert" not in explanation.to_html()


def test_page_in_a_notebook_is_a_frame() -> None:
    explanation = make("<script>alert(1)</script>", ())
    read = Page(explanation._repr_html_())
    assert read.tags == ["iframe"]


def test_page_without_targets() -> None:
    assert json.loads(Page(make("", ()).to_html()).data)["targets"] == []


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


def test_page_shrinks_boxes_with_the_image() -> None:
    explanation = replace(make(), image=np.zeros((500, 2000, 3), np.uint8), boxes=cells(500, 2000, 3, 5))
    data = json.loads(Page(explanation.to_html()).data)
    assert data["columns"][-1] == [768, page.LONGEST_SIDE]
    assert data["rows"][-1] == [160, 240]


def test_file_names() -> None:
    words = ["Ring", "a/b", "..", "café au lait", "環", "", "x" * 300, "con", "a\x00b"]
    names = file_names(words)
    assert names[:6] == [
        "00-ring.png",
        "01-a-b.png",
        "02-word.png",
        "03-cafe-au-lait.png",
        "04-word.png",
        "05-word.png",
    ]
    assert len(names[6]) < 60
    assert all(re.fullmatch(r"\d\d-[a-z0-9-]+\.png", name) for name in names)
    assert len(set(file_names(["word"] * 120))) == 120


@pytest.mark.parametrize("targets", [(), ("Ring",), ("red", "Ring", "blue", "ring")])
def test_save_and_load(tmp_path: Path, targets: tuple[str, ...]) -> None:
    explanation = make(targets=targets)
    folder = explanation.save(tmp_path / "new" / "folder")
    assert folder == tmp_path / "new" / "folder"
    names = file_names(targets)
    assert {path.name for path in folder.iterdir()} == {
        "explanation.html", "explanation.json", "contact_sheet.png", "image.png", "maps.npz", *names
    }  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]
    for name in names:
        with Image.open(folder / name) as picture:
            assert (picture.size, picture.mode) == ((72, 40), "RGB")
    record = json.loads((folder / "explanation.json").read_text("utf-8"))
    assert record["schema"] == 1
    assert [target["file"] for target in record["targets"]] == names
    assert same(Explanation.load(folder), explanation)


def test_save_replaces_an_earlier_save_only(tmp_path: Path) -> None:
    folder = make().save(tmp_path / "one")
    other = make("a star", ("star",))
    other.save(str(folder))
    assert same(Explanation.load(folder), other)
    assert not (folder / "03-ring.png").exists()

    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"^Explanation.save: folder must be new, empty .*notes.txt"):
        make().save(folder)
    assert same(Explanation.load(folder), other)

    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="got the file"):
        make().save(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    make().save(tmp_path / "empty")


def test_save_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    make().save(tmp_path / "link")
    make().save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert same(Explanation.load(tmp_path / "real"), make())


@pytest.mark.parametrize("earlier", [True, False])
def test_save_is_whole_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool) -> None:
    folder = tmp_path / "one"
    before = make("a star", ("star",))
    if earlier:
        before.save(folder)

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(storage.np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space"):
        make().save(folder)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["one"] * earlier
    if earlier:
        assert same(Explanation.load(folder), before)


def damaged_record(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((folder / "explanation.json").read_text("utf-8"))
    change(record)
    (folder / "explanation.json").write_text(json.dumps(record))


def test_load_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^Explanation.load: folder must hold explanation.json"):
        Explanation.load(tmp_path)
    for path in (None, 3):
        with pytest.raises(TypeError, match=r"^Explanation.load: folder must be a path, got (NoneType|int)$"):
            Explanation.load(path)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"^Explanation.save: folder must be a path, got (NoneType|int)$"):
            make().save(path)  # type: ignore[arg-type]
    folder = make().save(tmp_path / "one")
    for content, message in (
        ("{", "explanation.json must be JSON, got '"),
        ("[" * 100_000, "explanation.json must be JSON, got '"),
        ("[]", "content must be an object with 'schema', got"),
    ):
        (folder / "explanation.json").write_text(content)
        with pytest.raises(ValueError, match=rf"^Explanation.load: {message}") as caught:
            Explanation.load(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(schema=2), "schema must be 1, which this version reads, got 2 in '"),
        (lambda record: record.pop("answer"), "content must be an object with 'answer', got"),
        (lambda record: record.update(answer=3), "answer must be text, got 3 in '"),
        (lambda record: record.update(prompt=None), "prompt must be text, got None in '"),
        (lambda record: record.update(tokens="red"), "tokens must be a list, got 'red' in '"),
        (lambda record: record["tokens"].append(None), r"tokens\[8\] must be an object with 'position', got None in '"),
        (lambda record: record["tokens"][1].update(id="7"), r"tokens\[1\].id must be an integer, got '7' in '"),
        (lambda record: record["tokens"][1].update(step=1.5), r"tokens\[1\].step must be an integer, got 1.5 in '"),
        (lambda record: record["targets"][0].update(positions=[99]), r"targets\[0\].positions must be positions of t"),
        (lambda record: record["targets"][0].update(positions=[]), r"targets\[0\].positions must be positions of to"),
        (lambda record: record["targets"][0].update(positions=3), r"targets\[0\].positions must be a list, got 3 in"),
        (lambda record: record["targets"][0].update(peak=float("nan")), r"targets\[0\].peak must be a finite number"),
        (lambda record: record["targets"].pop(), r"maps.npz must hold .*maps of float32 \[4, 3, 5\], not .* \[3, 3, 5"),
        (lambda record: record["grid"].update(rows=10**12), "maps.npz must hold maps, raw_maps, boxes, got '"),
        (lambda record: record["grid"].update(rows=True), "grid.rows must be an integer from 1, got True in '"),
        (lambda record: record["image"].update(width=5), "image must be the size of image.png"),
        (lambda record: record.update(provenance=[]), r"provenance must be an object, got \[\] in '"),
    ],
)
def test_load_checks_every_entry(tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    folder = make().save(tmp_path / "one")
    damaged_record(folder, change)
    with pytest.raises(ValueError, match=rf"^Explanation.load: {message}"):
        Explanation.load(folder)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"maps": np.full((4, 3, 5), np.nan, np.float32)}, "maps with NaN or Inf in it"),
        ({"boxes": np.full((3, 5, 4), np.inf, np.float32)}, "boxes with NaN or Inf in it"),
        ({"maps": np.zeros((4, 3, 5))}, "maps of float64"),
        ({"maps": np.zeros((4, 3, 5), object)}, "maps of object"),
        ({"raw_maps": np.zeros((4, 5, 3), np.float32)}, r"raw_maps of float32 \[4, 5, 3\], not float32 \[4, 3, 5\]"),
        ({"maps": None}, "There is no item named 'maps.npy'"),
    ],
)
def test_load_checks_the_arrays(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    folder = make().save(tmp_path / "one")
    with np.load(folder / "maps.npz") as file:
        stored = {**file, **arrays}
    np.savez(folder / "maps.npz", **{name: values for name, values in stored.items() if values is not None})
    with pytest.raises(ValueError, match=rf"^Explanation.load: maps.npz must hold .*{message}"):
        Explanation.load(folder)
    (folder / "maps.npz").write_bytes(b"PK no")
    with pytest.raises(ValueError, match=r"^Explanation.load: maps.npz must hold maps, raw_maps, boxes, got '"):
        Explanation.load(folder)


def test_any_text_is_saved(tmp_path: Path) -> None:
    """Lone surrogates, as arguments and file names that are not UTF-8 have them, and control characters."""
    text = "caf\udce9 \x1b[31m \u2028 <b> \U0001f600"
    explanation = replace(make(), prompt=text, provenance={"model": text, text: 1})
    assert same(Explanation.load(explanation.save(tmp_path / "one")), explanation)
    page = (tmp_path / "one" / "explanation.html").read_bytes().decode("utf-8")
    assert "<b> \U0001f600" not in page
    answer = replace(make("caf\udce9", ("caf\udce9",)))
    assert same(Explanation.load(answer.save(tmp_path / "two")), answer)


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
