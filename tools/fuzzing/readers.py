"""What reads other people's files, under random and damaged input: each either gives what an independent check finds
right, or says in one line what is wrong.

`TARGETS` has a function for each reader. It makes one call, all of whose randomness comes from the generator, and
raises AssertionError where the reader did neither.
"""

from __future__ import annotations

import functools
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from dcam_fast.evaluation.datasets import CocoCaptions
from dcam_fast.evaluation.datasets.masks import decode
from dcam_fast.explained_answer import Target, Token
from dcam_fast.explanation import Explanation
from dcam_fast.images import load_image

ERRORS: Final = (ValueError, TypeError, FileNotFoundError)
MESSAGE: Final = re.compile(r"(load_image|decode|CocoCaptions|Explanation\.load): .+ must .+, got .+")  # on one line
ODD: Final = (None, True, -1, 0, 3, 7.5, 1e300, float("nan"), float("inf"), 10**400, "", "x", "\udce9", [], {}, [[]])


def read(reader: Callable[..., Any], *args: object) -> Any:
    """The result of a reader; None if it raises an error of the documented form."""
    try:
        return reader(*args)
    except ERRORS as error:
        if not MESSAGE.fullmatch(str(error)):
            raise AssertionError(f"{type(error).__name__}: {error}") from error
        return None
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}") from error


@functools.cache
def folder() -> Path:
    """A temporary folder of this process."""
    owner = tempfile.TemporaryDirectory(prefix="dcam-fuzz-")
    folder.owner = owner  # type: ignore[attr-defined]
    return Path(owner.name)


def damaged(rng: np.random.Generator, content: bytes) -> bytes:
    """Bytes with some changed, left out, repeated or cut off; sometimes unchanged."""
    result = bytearray(content)
    for _ in range(rng.integers(0, 6)):
        place = int(rng.integers(0, len(result) + 1))
        match rng.integers(0, 5):
            case 0 | 1:
                result[place : place + 1] = rng.bytes(1)
            case 2:
                del result[place : place + int(rng.integers(1, 9))]
            case 3:
                result[place:place] = result[place : place + int(rng.integers(1, 9))]
            case 4 if rng.random() < 0.3:
                del result[place:]
    return bytes(result)


def mutated(rng: np.random.Generator, value: Any) -> Any:
    """A JSON value of which a part is left out, repeated or replaced by something odd."""
    if isinstance(value, dict | list) and value and rng.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = keys[rng.integers(len(keys))]
        changed = value.copy()
        match rng.integers(0, 12):
            case 0:
                del changed[key]
            case 1 if isinstance(value, list):
                changed.append(value[key])
            case _:
                changed[key] = mutated(rng, value[key])
        return changed
    return ODD[rng.integers(len(ODD))]


def images(rng: np.random.Generator) -> None:
    """Pictures of every format and mode, damaged."""
    size = tuple(rng.integers(1, 20, 2).tolist())
    mode = str(rng.choice(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"]))
    kind = str(rng.choice(["png", "jpeg", "webp", "tiff", "gif", "bmp", "ppm", "mpo"]))
    if mode in ("I;16", "F"):
        values = rng.random(size, np.float32)
        image = Image.fromarray(values if mode == "F" else (values * 65535).astype(np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(0, 10))
    exif[0x010F] = "maker"
    options: dict[str, Any] = {"exif": exif if rng.random() < 0.5 else damaged(rng, exif.tobytes())}
    if rng.random() < 0.3:
        options["transparency"] = int(rng.integers(0, 300))
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind, **options)
    except Exception:  # not every format supports every mode: the writer decides
        buffer = io.BytesIO()
        Image.new("RGB", size).save(buffer, "png")
    path = folder() / "picture"
    path.write_bytes(damaged(rng, buffer.getvalue()))
    result = read(load_image, path)
    if result is not None:
        assert isinstance(result, np.ndarray)
        assert result.dtype == np.uint8
        assert result.ndim == 3
        assert result.shape[2] == 3
        assert result.size > 0
        assert result.flags.c_contiguous


def encode_runs(lengths: list[int]) -> str:
    """COCO's string of run lengths."""
    text = ""
    for index, length in enumerate(lengths):
        value = length - lengths[index - 2] if index > 2 else length
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text


def decode_runs(text: str) -> list[int]:
    """The run lengths of a string of `encode_runs`, character by character; ValueError for anything else."""
    lengths: list[int] = []
    digits: list[int] = []
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits <= 63:
            raise ValueError(character)
        digits.append(bits % 32)
        if bits < 32:
            value = sum(digit * 32**place for place, digit in enumerate(digits))
            if digits[-1] >= 16:
                value -= 32 ** len(digits)
            lengths.append(value if len(lengths) <= 2 else value + lengths[-2])
            digits = []
    if digits:
        raise ValueError("unfinished")
    return lengths


def rle(rng: np.random.Generator) -> None:
    """Run lengths, compressed or not, against a decoder in plain Python."""
    height, width = rng.integers(1, 30, 2).tolist()
    cuts = np.sort(rng.integers(0, height * width + 1, rng.integers(0, 12)))
    lengths = np.diff(np.concatenate(([0], cuts, [height * width]))).tolist()
    counts: Any = lengths
    kind = rng.integers(0, 4)
    if kind == 0:
        counts = encode_runs(lengths)
    elif kind == 1:
        counts = damaged(rng, encode_runs(lengths).encode()).decode("latin-1")
    elif kind == 2:
        counts = mutated(rng, lengths)
    size = mutated(rng, [height, width]) if rng.random() < 0.1 else [height, width]
    mask = read(decode, {"size": size, "counts": counts}, (height, width))
    try:
        expected = decode_runs(counts) if isinstance(counts, str) else counts
        whole = all(type(length) is int and length >= 0 for length in expected)
        sound = size == [height, width] and whole and sum(expected) == height * width
    except (ValueError, TypeError):
        sound = False
    assert (mask is not None) == sound, f"{counts!r} of {size}"
    if mask is not None:
        pixels = [index % 2 == 1 for index, length in enumerate(expected) for _ in range(length)]
        columns = [pixels[start : start + height] for start in range(0, height * width, height)]
        assert mask.dtype == bool
        assert mask.shape == (height, width)
        assert mask.T.tolist() == columns


def polygons(rng: np.random.Generator) -> None:
    """Polygons, sometimes far outside or degenerate; the inside of a convex one must be in its mask."""
    height, width = rng.integers(1, 40, 2).tolist()
    shape = rng.random((int(rng.integers(0, 7)), 2)) * (width, height)
    far = rng.choice([1e9, -1e9, 2e8, 100, -5], 2) if rng.random() < 0.1 else ()
    value: Any = [[*shape.flatten().tolist(), *map(float, far)]]
    if rng.random() < 0.5:
        value = mutated(rng, value)
    mask = read(decode, value, (height, width))
    if mask is not None:
        assert mask.dtype == bool
        assert mask.shape == (height, width)
        corners = [corner for polygon in value if len(polygon) >= 6 for corner in polygon]
        if corners:
            rows, columns = np.nonzero(mask)
            for places, values in ((columns, corners[0::2]), (rows, corners[1::2])):
                assert ((places >= min(values) - 1) & (places <= max(values) + 1)).all()
        else:
            assert not mask.any()


@functools.cache
def coco_content() -> tuple[Any, Any]:
    captions = [{"image_id": 1, "caption": "a dog"}, {"image_id": 2, "caption": "two cats"}]
    boxes = [[1, 1, 5, 1, 5, 4, 1, 4]]
    runs = {"size": [6, 9], "counts": [10, 44]}
    instances = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 6, "width": 9} for n in (1, 2)],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": boxes},
            {"id": 2, "image_id": 2, "category_id": 2, "iscrowd": 1, "segmentation": runs},
        ],
    }
    place = folder() / "coco"
    (place / "annotations").mkdir(parents=True)
    (place / "val2017").mkdir()
    for number in (1, 2):
        Image.new("RGB", (9, 6)).save(place / f"val2017/{number}.png")
    return {"annotations": captions}, instances


def coco(rng: np.random.Generator) -> None:
    """COCO's two files with a few values replaced."""
    contents = coco_content()
    place = folder() / "coco"
    for kind, content in zip(("captions", "instances"), contents, strict=True):
        changed = content
        for _ in range(rng.integers(0, 3)):
            changed = mutated(rng, changed)
        (place / f"annotations/{kind}_val2017.json").write_text(json.dumps(changed))
    dataset = read(CocoCaptions, place)
    if dataset is not None:
        assert len(dataset) > 0
        for index in range(len(dataset)):
            sample = read(dataset.__getitem__, index)
            if sample is not None:
                assert sample.image.shape == (6, 9, 3)
                for region in sample.regions:
                    assert region.mask.shape == (6, 9)
                    assert region.mask.any()
                    assert all(0 <= start < end <= len(sample.caption) for start, end in region.spans)


@functools.cache
def saved() -> tuple[Path, dict[str, Any], dict[str, bytes]]:
    """A folder of `Explanation.save`: its record, and its other files that are read."""
    count, rows, columns = 2, 3, 4
    explanation = Explanation(
        image=np.zeros((12, 16, 3), np.uint8),
        prompt="what ?",
        answer="a red ring",
        tokens=tuple(Token(text, n, n, n) for n, text in enumerate(("a", "red", "ring"))),
        targets=(Target("red", (1,), 0.5, 0.5, 0.5), Target("red ring", (1, 2), 0.1, 0.2, 0.3)),
        maps=torch.rand(count, rows, columns),
        raw_maps=torch.rand(count, rows, columns),
        boxes=torch.tensor([[[4.0 * x, 4.0 * y, 4.0 * x + 4, 4.0 * y + 4] for x in range(4)] for y in range(3)]),
        provenance={"model": "none"},
    )
    place = explanation.save(folder() / "saved")
    record = json.loads((place / "explanation.json").read_text("utf-8"))
    return place, record, {name: (place / name).read_bytes() for name in ("maps.npz", "image.png", "explanation.json")}


def explanation(rng: np.random.Generator) -> None:
    """A saved explanation of which the record, the arrays or the image are damaged."""
    place, record, files = saved()
    for name, content in files.items():
        (place / name).write_bytes(content)
    match rng.integers(0, 4):
        case 0:
            name = str(rng.choice(list(files)))
            (place / name).write_bytes(damaged(rng, files[name]))
        case 1:
            shape = tuple(rng.choice([[2, 3, 4], [1, 3, 4], [0, 3, 4], [3, 4, 2]]).tolist())
            dtype = rng.choice(["<f4", ">f4", "<f8", "<i4"])
            values = rng.choice([0.5, np.nan, np.inf], shape, p=[0.98, 0.01, 0.01])
            with zipfile.ZipFile(io.BytesIO(files["maps.npz"])) as archive:
                arrays = {item.removesuffix(".npy"): np.load(archive.open(item)) for item in archive.namelist()}
            with np.errstate(invalid="ignore"):
                arrays[str(rng.choice(list(arrays)))] = values.astype(dtype)
            np.savez(place / "maps.npz", **arrays)
        case _:
            changed = record
            for _ in range(rng.integers(0, 3)):
                changed = mutated(rng, changed)
            (place / "explanation.json").write_text(json.dumps(changed))
    result = read(Explanation.load, place)
    if result is not None:
        assert isinstance(result.prompt, str)
        assert isinstance(result.answer, str)
        assert result.image.dtype == np.uint8
        for tensor in (result.maps, result.raw_maps, result.boxes):
            assert tensor.dtype is torch.float32
            assert bool(torch.isfinite(tensor).all())
        assert len(result.maps) == len(result.raw_maps) == len(result.targets)
        assert result.boxes.shape == (*result.maps.shape[1:], 4)
        positions = {token.position for token in result.tokens}
        assert all(type(token.position) is int and isinstance(token.text, str) for token in result.tokens)
        for target in result.targets:
            assert set(target.positions) <= positions
            assert all(value is None or np.isfinite(value) for value in target.scores.values())
        "".join(piece.text for piece in result.pieces())


TARGETS: Final[dict[str, Callable[[np.random.Generator], None]]] = {
    "images": images,
    "rle": rle,
    "polygons": polygons,
    "coco": coco,
    "explanation": explanation,
}
