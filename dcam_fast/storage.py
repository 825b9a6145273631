"""Explanations as folders: written whole or not at all, and read again."""

from __future__ import annotations

import json
import shutil
import unicodedata
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from dcam_fast.explanation import Explanation, Target, Token
from dcam_fast.images import load_image

SCHEMA: Final = 1
RECORD: Final = "explanation.json"
PAGE: Final = "explanation.html"
SHEET: Final = "contact_sheet.png"
IMAGE: Final = "image.png"
ARRAYS: Final = "maps.npz"
LONGEST_NAME: Final = 40  # characters of a word in a file's name


def file_names(texts: Sequence[str]) -> list[str]:
    """A file name for each text: its number and what of it any file system takes."""
    digits = max(2, len(str(len(texts) - 1)))
    names = []
    for index, text in enumerate(texts):
        ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
        words = "".join(c if c.isalnum() else " " for c in ascii_text.lower()).split()
        names.append(f"{index:0{digits}d}-{'-'.join(words)[:LONGEST_NAME].strip('-') or 'word'}.png")
    return names


def _files_of(folder: Path, record: str) -> set[str]:
    """Names of what an earlier save wrote into a folder, by its own record."""
    try:
        facts = json.loads((folder / record).read_text("utf-8"))
    except (OSError, ValueError):
        return set()
    return set(facts["files"]) if isinstance(facts, dict) and "schema" in facts and "files" in facts else set()


def check_replaceable(folder: Path, record: str, caller: str) -> None:
    """Raises FileExistsError unless ``folder`` is not there, is empty, or holds an earlier save and nothing else.

    Args:
        folder: where something is to be written.
        record: name of the JSON file in which a save lists its "files".
        caller: what the error names.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{caller}: folder must be a folder or not exist, got the file '{folder}'")
    others = sorted({path.name for path in folder.iterdir()} - _files_of(folder, record))
    if others:
        need = "new, empty or hold nothing but an earlier save"
        raise FileExistsError(f"{caller}: folder must be {need}, got '{folder}' with '{others[0]}' in it")


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder beside ``folder``, which takes its place at the end, or is gone if anything fails on the way."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    tag = uuid.uuid4().hex[:8]
    draft, former = (folder.with_name(f".{folder.name}.{tag}.{kind}") for kind in ("new", "old"))
    draft.mkdir()
    try:
        yield draft
        if folder.exists():
            folder.rename(former)
        draft.rename(folder)
    except BaseException:
        if former.exists() and not folder.exists():
            former.rename(folder)
        shutil.rmtree(draft, ignore_errors=True)
        raise
    shutil.rmtree(former, ignore_errors=True)


def save(explanation: Explanation, folder: Path) -> Path:
    """See `Explanation.save`."""
    target_folder = folder.resolve()  # a link stays a link
    check_replaceable(target_folder, RECORD, "Explanation.save")
    pictures = file_names([target.text for target in explanation.targets])
    files = [RECORD, PAGE, SHEET, IMAGE, ARRAYS, *pictures]
    record = {
        "schema": SCHEMA,
        "prompt": explanation.prompt,
        "answer": explanation.answer,
        "tokens": [asdict(token) for token in explanation.tokens],
        "targets": [
            {**asdict(target), "file": name} for target, name in zip(explanation.targets, pictures, strict=True)
        ],
        "image": {"height": explanation.image.shape[0], "width": explanation.image.shape[1], "file": IMAGE},
        "grid": {"rows": explanation.maps.shape[1], "columns": explanation.maps.shape[2], "file": ARRAYS},
        "provenance": dict(explanation.provenance),
        "files": files,
    }
    with replacing(target_folder) as draft:
        (draft / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False, default=str) + "\n", "utf-8")
        (draft / PAGE).write_text(explanation.to_html(), "utf-8")
        explanation.contact_sheet().save(draft / SHEET)
        Image.fromarray(explanation.image).save(draft / IMAGE)
        for index, name in enumerate(pictures):
            explanation.overlay(index).save(draft / name)
        arrays = {name: getattr(explanation, name).cpu().numpy() for name in ("maps", "raw_maps", "boxes")}
        np.savez_compressed(draft / ARRAYS, **arrays)
    return folder


def load(folder: Path) -> Explanation:
    """See `Explanation.load`."""
    if not (folder / RECORD).is_file():
        raise FileNotFoundError(f"Explanation.load: folder must hold {RECORD}, got '{folder}'")
    try:
        return _read(folder)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        got = f"'{folder}' with {type(error).__name__}: {error}"
        raise ValueError(f"Explanation.load: folder must be one that Explanation.save wrote, got {got}") from error


def _read(folder: Path) -> Explanation:
    record: dict[str, Any] = json.loads((folder / RECORD).read_text("utf-8"))
    if record["schema"] != SCHEMA:
        raise ValueError(f"schema {record['schema']}, where this version reads {SCHEMA}")
    with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
        maps, raw_maps, boxes = (torch.from_numpy(arrays[name]) for name in ("maps", "raw_maps", "boxes"))
    scores = ("text", "peak", "spread", "groundedness")
    return Explanation(
        image=load_image(folder / IMAGE),
        prompt=record["prompt"],
        answer=record["answer"],
        tokens=tuple(Token(**token) for token in record["tokens"]),
        targets=tuple(
            Target(positions=tuple(target["positions"]), **{name: target[name] for name in scores})
            for target in record["targets"]
        ),
        maps=maps,
        raw_maps=raw_maps,
        boxes=boxes,
        provenance=record["provenance"],
    )
