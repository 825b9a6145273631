"""Explanations as folders: written completely or not at all, and checked when read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explanations import make, same
from PIL import Image

from dcam_fast.explanation import Explanation
from dcam_fast.output import files as storage
from dcam_fast.output.files import file_names


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


def test_save_and_load_a_contrast(tmp_path: Path) -> None:
    explanation = make(targets=("red",))
    explanation = replace(explanation, targets=(replace(explanation.targets[0], instead="large blue"),))
    folder = explanation.save(tmp_path / "one")
    assert (folder / "00-red-large-blue.png").exists()
    assert '"instead":"large blue"' in (folder / "explanation.html").read_text("utf-8")
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
def test_save_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool) -> None:
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


def test_load_names_the_damage(tmp_path: Path) -> None:
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
