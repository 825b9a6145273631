from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dcam_fast import images
from dcam_fast.images import ImageError, load_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture
def picture() -> np.ndarray:
    """uint8 [5, 7, 3]: odd, not square, every pixel different."""
    return (np.arange(105).reshape(5, 7, 3) * 2).astype(np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def check(result: np.ndarray, expected: np.ndarray, within: int = 0) -> None:
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    assert result.shape == expected.shape
    assert np.abs(result.astype(int) - expected).max() <= within


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "tiff", "ppm"])
def test_lossless_files(tmp_path: Path, picture: np.ndarray, suffix: str) -> None:
    path = saved(
        tmp_path / f"a picture.{suffix}", Image.fromarray(picture), **({"lossless": True} if suffix == "webp" else {})
    )
    check(load_image(path), picture)
    check(load_image(str(path)), picture)


def test_pil_image_is_not_modified(picture: np.ndarray) -> None:
    image = Image.fromarray(picture)
    result = load_image(image)
    result[:] = 0
    assert (np.asarray(image) == picture).all()


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "I;16", "F"],
)
def test_every_mode(mode: str) -> None:
    """A white image is white in every mode, and a black one black."""
    for level in (0, 255):
        gray = Image.new("L", (6, 4), level)
        if mode == "LAB":
            image = Image.new("LAB", (6, 4), (level, 128, 128))
        elif mode in ("I", "I;16"):
            image = Image.fromarray(np.full((4, 6), level * 257, np.int32 if mode == "I" else np.uint16))
        elif mode == "F":
            image = Image.fromarray(np.full((4, 6), level / 255, np.float32))
        elif mode in ("La", "RGBa"):
            image = gray.convert(mode.upper()).convert(mode)
        elif mode == "PA":
            image = gray.convert("P").convert("PA")
        else:
            image = (
                gray.convert("RGB").convert(mode)
                if mode in ("HSV", "YCbCr", "CMYK", "RGBX", "LA")
                else gray.convert(mode)
            )
        assert image.mode == mode
        check(load_image(image), np.full((4, 6, 3), level), within=1)


def test_transparency_is_composited_over_white(tmp_path: Path) -> None:
    rgba = Image.new("RGBA", (2, 1), (*RED, 255))
    rgba.putpixel((1, 0), (*RED, 0))
    half = Image.new("RGBA", (1, 1), (*BLUE, 128))
    assert load_image(rgba).tolist() == [[list(RED), list(WHITE)]]
    assert load_image(half).tolist() == [[[127, 127, 255]]]
    assert load_image(np.asarray(rgba)).tolist() == [[list(RED), list(WHITE)]]

    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *GREEN])
    palette.putdata([0, 1])
    path = saved(tmp_path / "palette.png", palette, transparency=1)
    assert load_image(path).tolist() == [[list(RED), list(WHITE)]]

    key = saved(tmp_path / "key.png", Image.new("RGB", (1, 1), GREEN), transparency=GREEN)
    assert load_image(key).tolist() == [[list(WHITE)]]
    gray = Image.new("LA", (1, 1), (0, 0))
    assert load_image(gray).tolist() == [[list(WHITE)]]


def test_sixteen_bits(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    path = saved(tmp_path / "deep.png", Image.fromarray(values))
    expected = np.array([[0, 1, 128, 255]])[..., None].repeat(3, 2)
    check(load_image(path), expected)
    check(load_image(values), expected)
    with pytest.raises(ImageError, match="from 0 to 65535"):
        load_image(Image.fromarray(np.array([[70000]], np.int32)))


def test_exif_rotation(tmp_path: Path) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = RED
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it 90 degrees clockwise
    path = saved(tmp_path / "turned.jpg", Image.fromarray(pixels), exif=exif, quality=95)
    result = load_image(path)
    assert result.shape == (32, 16, 3)
    assert result[4, 8, 0] > 200
    assert result[28, 8, 0] < 50
    with Image.open(path) as image:
        check(load_image(image), result)


def test_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 2), color) for color in (RED, BLUE)]
    path = saved(tmp_path / "moving.gif", frames[0], save_all=True, append_images=frames[1:])
    assert load_image(path)[0, 0].tolist() == list(RED)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floats(picture: np.ndarray, dtype: str) -> None:
    check(load_image((picture / 255).astype(dtype)), picture)


def test_arrays(picture: np.ndarray) -> None:
    check(load_image(picture), picture)
    check(load_image(picture[::-1, ::2]), picture[::-1, ::2])
    check(load_image(picture[..., 0]), picture[..., :1].repeat(3, 2))
    check(load_image(picture[..., :1]), picture[..., :1].repeat(3, 2))
    result = load_image(picture)
    result[:] = 0
    assert picture.any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.float16])
def test_tensors(picture: np.ndarray, dtype: torch.dtype) -> None:
    tensor = torch.from_numpy(picture.copy())
    if dtype.is_floating_point:
        tensor = (tensor / 255).to(dtype).requires_grad_()
    within = 1 if dtype is torch.bfloat16 else 0
    check(load_image(tensor), picture, within)
    check(load_image(tensor.permute(2, 0, 1)), picture, within)
    check(load_image(tensor[..., 0]), picture[..., :1].repeat(3, 2), within)
    check(load_image(tensor[..., 0][None]), picture[..., :1].repeat(3, 2), within)
    opaque = torch.cat([tensor, torch.ones_like(tensor[..., :1]) * (1 if dtype.is_floating_point else 255)], 2)
    check(load_image(opaque.permute(2, 0, 1)), picture, within)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (np.zeros((0, 4, 3), np.uint8), ImageError, "at least 1 pixel"),
        (np.zeros((4, 4, 2), np.uint8), ImageError, "got \\[4, 4, 2\\]"),
        (np.zeros((3, 40, 40), np.uint8), ImageError, "got \\[3, 40, 40\\]"),
        (np.zeros(4, np.uint8), ImageError, "\\[H, W\\]"),
        (np.zeros((4, 4), np.int64), TypeError, "got int64"),
        (np.zeros((4, 4), bool), TypeError, "got bool"),
        (np.full((4, 4), np.nan), ImageError, "finite"),
        (np.full((4, 4), np.inf), ImageError, "finite"),
        (np.full((4, 4), 200.0), ImageError, "from 0 to 1 .* got 200 to 200"),
        (np.full((4, 4), -0.1), ImageError, "from 0 to 1"),
        (torch.zeros(1, 3, 4, 4), ImageError, "got \\[1, 3, 4, 4\\]"),
        (torch.zeros(4, 4, dtype=torch.int64), TypeError, "got int64"),
        (Image.new("RGB", (0, 3)), ImageError, "at least 1 pixel"),
        (b"bytes", TypeError, "got bytes"),
        (None, TypeError, "got NoneType"),
        ([[0, 1]], TypeError, "got list"),
        ("", ImageError, "must be a file"),
        ("/no/such/file.png", FileNotFoundError, "got '/no/such/file.png'"),
        ("/", ImageError, "must be a file"),
    ],
)
def test_invalid_images_are_rejected(source: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        load_image(source)  # type: ignore[arg-type]
    assert str(caught.value).startswith("load_image: image must be ")
    assert "\n" not in str(caught.value)


def damaged(name: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG" if name == "cut.jpg" else "PNG")
    whole = buffer.getvalue()
    match name:
        case "empty.png":
            return b""
        case "text.png":
            return b"this is no picture at all"
        case "header.png":
            return whole[:20]
        case "cut.png" | "cut.jpg":
            return whole[: len(whole) // 2]
        case "flipped.png":
            return whole[:500] + bytes(byte ^ 0xFF for byte in whole[500:600]) + whole[600:]
        case _:
            return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"


@pytest.mark.parametrize(
    "name", ["empty.png", "text.png", "header.png", "cut.png", "cut.jpg", "flipped.png", "program.eps"]
)
def test_damaged_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(damaged(name))
    with pytest.raises(ImageError, match=name) as caught:
        load_image(path)
    assert "\n" not in str(caught.value)


def test_size_is_checked_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "large.png", Image.new("RGB", (40, 30)))
    path.write_bytes(path.read_bytes()[:60])  # its pixels are missing: to decode it would be another error
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    with pytest.raises(ImageError, match="at most 1,000 pixels, got 30 x 40"):
        load_image(path)
    with pytest.raises(ImageError, match="at most 1,000 pixels"):
        load_image(np.zeros((40, 30), np.uint8))


def test_decompression_bomb(tmp_path: Path) -> None:
    header = bytearray(saved(tmp_path / "bomb.bmp", Image.new("RGB", (1, 1))).read_bytes())
    header[18:26] = (100_000).to_bytes(4, "little") * 2
    (tmp_path / "bomb.bmp").write_bytes(header)
    with pytest.raises(ImageError, match="at most 100,000,000 pixels"):
        load_image(tmp_path / "bomb.bmp")
