"""`load_image` over formats and modes: what a file says of its pixels is honored where it can be read."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from dcam_fast.images import ImageError, exif_orientation, load_image

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
FORMATS = {
    "png": {},
    "webp": {"lossless": True, "exact": True},
    "tiff": {},
    "jpeg": {"quality": 100, "subsampling": 0},
}
TURNS = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: pixels[::-1].transpose(1, 0, 2),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: pixels.transpose(1, 0, 2)[::-1],
}


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **{**FORMATS.get(kind, {}), **options})
    return buffer.getvalue()


def loaded(folder: Path, content: bytes) -> np.ndarray:
    (folder / "picture").write_bytes(content)
    return load_image(folder / "picture")


def chunk(name: bytes, content: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(name + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def png(header: bytes, rows: bytes, *chunks: bytes) -> bytes:
    parts = (chunk(b"IHDR", header + b"\0\0\0"), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("orientation", TURNS)
def test_orientation(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(PIXELS), kind, exif=exif)
    plain = loaded(tmp_path, encoded(Image.fromarray(PIXELS), kind))
    assert np.array_equal(loaded(tmp_path, content), TURNS[orientation](plain))
    assert exif_orientation(tmp_path / "picture") == orientation
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(load_image(image), TURNS[orientation](plain))


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
@pytest.mark.parametrize(
    "exif",
    [b"garbage", b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0\xff\xff\xff\xff"],
)
def test_broken_exif_leaves_the_pixels(tmp_path: Path, kind: str, exif: bytes) -> None:
    content = encoded(Image.fromarray(PIXELS), kind, exif=exif)
    assert np.array_equal(loaded(tmp_path, content), loaded(tmp_path, encoded(Image.fromarray(PIXELS), kind)))
    with Image.open(io.BytesIO(content)) as image:
        assert load_image(image).shape == PIXELS.shape


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_invalid_orientations_are_ignored(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(loaded(tmp_path, encoded(Image.fromarray(PIXELS), "png", exif=exif)), PIXELS)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("place", [5, 10**9])
def test_broken_metadata_of_tiff(tmp_path: Path, orientation: int, place: int) -> None:
    """An invalid EXIF directory, for which Pillow raises after decoding."""
    tags = {0x0112: orientation, 0x8769: place, 0x8825: place}
    content = encoded(Image.fromarray(PIXELS), "tiff", tiffinfo=tags)
    assert np.array_equal(loaded(tmp_path, content), TURNS[orientation](PIXELS))


@pytest.mark.parametrize(
    "broken",
    [
        chunk(b"eXIf", b"MM", 7),
        chunk(b"zTXt", b"title\0\0" + zlib.compress(bytes(10**8))),
        chunk(b"iTXt", b"title"),
        chunk(b"iCCP", b"x\0\0no profile"),
        chunk(b"tEXt", b"title\0x", 7),
        chunk(b"pHYs", b"1"),
    ],
)
def test_broken_chunks_of_png(tmp_path: Path, broken: bytes) -> None:
    content = encoded(Image.fromarray(PIXELS), "png")
    assert np.array_equal(loaded(tmp_path, content[:33] + broken + content[33:]), PIXELS)
    assert np.array_equal(loaded(tmp_path, content[:-12] + broken + content[-12:]), PIXELS)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.fromarray(PIXELS), "png", exif=exif)
    if b"eXIf" not in broken:  # of two the last counts
        assert np.array_equal(loaded(tmp_path, turned[:-12] + broken + turned[-12:]), TURNS[6](PIXELS))
    with pytest.raises(ImageError, match="picture"):
        loaded(tmp_path, content[:33] + broken + content[33:-30])


@pytest.mark.parametrize(
    ("header", "row", "key"),
    [
        ((2, 1, 1, 0), b"\x40", (1,)),  # gray of 1 bit: black, white
        ((2, 1, 2, 0), b"\x30", (3,)),  # of 2
        ((2, 1, 4, 0), b"\x0f", (15,)),  # of 4
        ((2, 1, 8, 0), b"\0\x7f", (0x7F,)),
        ((2, 1, 16, 0), b"\0\0\x12\x34", (0x1234,)),
        ((2, 1, 8, 2), b"\0\0\0\x09\x08\x07", (9, 8, 7)),
        ((2, 1, 16, 2), b"\0\0\0\0\0\0" + b"\x12\x34\0\x99\x20\0", (0x1234, 0x99, 0x2000)),
    ],
)
def test_key_color_of_every_depth(tmp_path: Path, header: tuple[int, ...], row: bytes, key: tuple[int, ...]) -> None:
    """The second of two pixels has the color that is transparent, and so is white; the first is black."""
    color = struct.pack(f">{len(key)}H", *key)
    content = png(struct.pack(">IIBB", *header), b"\0" + row, chunk(b"tRNS", color))
    assert loaded(tmp_path, content).tolist() == [[[0, 0, 0], list(WHITE)]]
    with Image.open(io.BytesIO(content)) as image:
        assert load_image(image).tolist() == [[[0, 0, 0], list(WHITE)]]


def test_palettes_with_transparency(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *GREEN])
    palette.putdata([0, 1])
    half = [[[255, 127, 127], list(GREEN)]]
    assert loaded(tmp_path, encoded(palette, "png", transparency=b"\x80\xff")).tolist() == half
    assert loaded(tmp_path, encoded(palette, "gif", transparency=0)).tolist() == [[list(WHITE), list(GREEN)]]


@pytest.mark.parametrize(
    ("mode", "kinds"),
    [
        ("1", ("png", "tiff", "bmp", "gif")),
        ("L", ("png", "tiff", "bmp", "gif", "jpeg", "webp")),
        ("LA", ("png", "tiff", "webp")),
        ("P", ("png", "tiff", "bmp", "gif")),
        ("RGB", ("png", "tiff", "bmp", "jpeg", "webp", "ppm")),
        ("RGBA", ("png", "tiff", "webp")),
        ("CMYK", ("tiff", "jpeg")),
        ("YCbCr", ("tiff", "jpeg")),
        ("LAB", ("tiff",)),
        ("I;16", ("png", "tiff")),
        ("I;16B", ("tiff",)),
        ("I", ("tiff",)),
        ("F", ("tiff",)),
    ],
)
def test_every_mode_in_every_format(tmp_path: Path, mode: str, kinds: tuple[str, ...]) -> None:
    """A white picture is white and a black one black, whatever way it is stored."""
    for level in (0, 255):
        gray = Image.new("L", (8, 8), level)
        if mode == "LAB":
            image = Image.new("LAB", (8, 8), (level, 128, 128))
        elif mode.startswith("I;16"):
            values = np.full((8, 8), level * 257, ">u2" if mode == "I;16B" else "<u2")
            image = Image.frombytes(mode, (8, 8), values.tobytes())
        elif mode in ("I", "F"):
            image = Image.fromarray(
                np.full((8, 8), level * 257 if mode == "I" else level / 255, np.int32 if mode == "I" else np.float32)
            )
        else:
            image = (gray.convert("RGB") if mode in ("CMYK", "YCbCr") else gray).convert(mode)
        for kind in kinds:
            if kind == "webp" and not features.check("webp"):
                continue
            result = loaded(tmp_path, encoded(image, kind))
            assert np.abs(result.astype(int) - level).max() <= 2, (kind, level)


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tiff", "mpo"])
def test_first_of_several(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, GREEN)]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(loaded(tmp_path, content)[0, 0].astype(int) - RED).max() <= 3


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff", "gif", "bmp"])
def test_truncated_files_are_rejected(tmp_path: Path, kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    content = encoded(noise, kind)
    for share in (0.2, 0.5, 0.9):
        with pytest.raises(ImageError, match=r"^load_image: image must be .*picture'"):
            loaded(tmp_path, content[: int(share * len(content))])
