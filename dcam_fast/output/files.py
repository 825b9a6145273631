"""Explanations as folders: written completely or not at all, and read."""

from __future__ import annotations

import math
import unicodedata
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dcam_fast.explained_answer import Alternative, ExplainedAnswer, Target, Token
from dcam_fast.folders import locked, replacing, write_json, write_text
from dcam_fast.images import load_image
from dcam_fast.json_entries import Entry, read_json
from dcam_fast.output.html import to_html
from dcam_fast.output.pictures import contact_sheet, overlays
from dcam_fast.output.record import SCHEMA, record_of

RECORD: Final = "explanation.json"
PAGE: Final = "explanation.html"
SHEET: Final = "contact_sheet.png"
IMAGE: Final = "image.png"
ARRAYS: Final = "maps.npz"
ARRAY_NAMES: Final = ("maps", "raw_maps", "boxes")
LOAD: Final = "Explanation.load"
LONGEST_NAME: Final = 40  # characters of a word in a file's name


def file_names(texts: Sequence[str]) -> list[str]:
    """A file name for each text: its number and its ASCII letters and digits."""
    digits = max(2, len(str(len(texts) - 1)))
    names = []
    for index, text in enumerate(texts):
        ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
        words = "".join(c if c.isalnum() else " " for c in ascii_text.lower()).split()
        names.append(f"{index:0{digits}d}-{'-'.join(words)[:LONGEST_NAME].strip('-') or 'word'}.png")
    return names


def save(explanation: ExplainedAnswer, folder: Path) -> Path:
    """See `Explanation.save`."""
    pictures = file_names([" ".join(filter(None, (t.text, t.instead))) for t in explanation.targets])
    record = record_of(explanation, arrays=())
    for target, name in zip(record["targets"], pictures, strict=True):
        target["file"] = name
    record["image"]["file"], record["grid"]["file"] = IMAGE, ARRAYS
    record["files"] = [RECORD, PAGE, SHEET, IMAGE, ARRAYS, *pictures]
    with replacing(folder, "Explanation.save", RECORD) as draft:
        write_json(draft / RECORD, record)
        write_text(draft / PAGE, to_html(explanation))
        contact_sheet([explanation]).save(draft / SHEET)
        Image.fromarray(explanation.image).save(draft / IMAGE)
        for index, name in enumerate(pictures):
            overlays(explanation, explanation.image, [index])[0].save(draft / name)
        arrays = {name: getattr(explanation, name).cpu().numpy() for name in ARRAY_NAMES}
        np.savez_compressed(draft / ARRAYS, **arrays)
    return folder


def read(folder: Path) -> dict[str, Any]:
    """The fields of the explanation that `save` wrote. Raises as `Explanation.load`."""
    if not (folder / RECORD).is_file():
        raise FileNotFoundError(f"{LOAD}: folder must hold {RECORD}, got '{folder}'")
    with locked(folder, shared=True):
        return _read(folder)


def _read(folder: Path) -> dict[str, Any]:
    record = read_json(folder / RECORD, LOAD, RECORD)
    schema = record.field("schema")
    if schema.value != SCHEMA:
        raise schema.error(f"{SCHEMA}, which this version reads")
    tokens = tuple(_token(entry) for entry in record.field("tokens").list())
    positions = {token.position for token in tokens}
    targets = tuple(_target(entry, positions) for entry in record.field("targets").list())
    grid = record.field("grid")
    shape = (len(targets), *(grid.field(side).integer(1) for side in ("rows", "columns")))
    image = load_image(folder / IMAGE)
    size = tuple(record.field("image").field(side).integer(1) for side in ("height", "width"))
    if image.shape[:2] != size:
        raise record.field("image").error(f"the size of {IMAGE}, {list(image.shape[:2])}", list(size))
    arrays = _read_arrays(folder / ARRAYS, {"maps": shape, "raw_maps": shape, "boxes": (*shape[1:], 4)})
    return dict(
        image=image,
        prompt=record.field("prompt").text(),
        answer=record.field("answer").text(),
        tokens=tokens,
        targets=targets,
        provenance={name: entry.value for name, entry in record.field("provenance").fields().items()},
        **arrays,
    )


def _token(entry: Entry) -> Token:
    position, step = entry.field("position"), entry.field("step")
    known = None if step.value is None else step.integer()
    return Token(entry.field("text").text(), entry.field("id").integer(), position.integer(0), known)


def _target(entry: Entry, positions: set[int]) -> Target:
    places = entry.field("positions")
    own = tuple(place.integer(0) for place in places.list())
    if not own or not positions.issuperset(own):
        raise places.error("positions of tokens")
    positioned = entry.field("alternatives").list()
    if len(positioned) not in (0, len(own)):
        raise entry.field("alternatives").error(f"empty or of {len(own)} positions", len(positioned))
    instead = entry.field("instead")
    return Target(
        text=entry.field("text").text(),
        positions=own,
        peak=entry.field("peak").number(),
        spread=entry.field("spread").number(),
        groundedness=_score(entry.field("groundedness")),
        image_share=_score(entry.field("image_share")),
        prompt_share=_score(entry.field("prompt_share")),
        answer_share=_score(entry.field("answer_share")),
        alternatives=tuple(tuple(map(_alternative, alternatives.list())) for alternatives in positioned),
        instead=None if instead.value is None else instead.text(),
    )


def _score(entry: Entry) -> float | None:
    return None if entry.value is None else entry.number()


def _alternative(entry: Entry) -> Alternative:
    probability = entry.field("probability").number()
    return Alternative(entry.field("text").text(), entry.field("id").integer(), probability)


def _read_arrays(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The arrays of a file, checked to be finite float32 of these shapes."""
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name, shape in shapes.items():
                with archive.open(f"{name}.npy") as file:
                    arrays[name] = _read_array(file, name, shape)
    except Exception as error:  # zipfile raises almost any exception for a damaged archive
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{LOAD}: {ARRAYS} must hold {', '.join(shapes)}, got '{path}': {reason}") from error
    return arrays


def _read_array(file: IO[bytes], name: str, shape: tuple[int, ...]) -> Tensor:
    """An array in NumPy's format. Reads no more bytes than its shape needs."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"{name} of another version of NumPy's format")
    stored, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    if stored != shape or by_columns or dtype != np.dtype("<f4"):
        raise ValueError(f"{name} of {dtype} {list(stored)}, not float32 {list(shape)}")
    size = 4 * math.prod(shape)
    content = file.read(size + 1)
    if len(content) != size:
        raise ValueError(f"{name} of {len(content)} bytes, not {size}")
    values = np.frombuffer(content, "<f4").reshape(shape).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} with NaN or Inf in it")
    return torch.from_numpy(values)
