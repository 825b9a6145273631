"""`load_image`: any image source as uint8 RGB."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

MAX_PIXELS: Final = 100_000_000
CHANNELS: Final = (1, 3, 4)
ORIENTATION: Final = 0x0112  # the tag in EXIF data
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Result = TypeVar("Result")
ImageSource = str | os.PathLike[str] | Image.Image | NDArray | Tensor


class ImageError(ValueError):
    """The image source has a supported type, but its content is not a usable image."""


def _error(need: str, got: object) -> ImageError:
    return ImageError(f"load_image: image must be {need}, got {got}")


def load_image(source: ImageSource) -> NDArray[np.uint8]:
    """An image as a new, contiguous uint8 `[H, W, 3]` array in RGB.

    Transparency is composited over white. EXIF rotation is applied. An animation gives its first frame. Damaged
    metadata is ignored. The size is checked before a file is decoded.

    Args:
        source: one of

            * the path of a file in any format and mode that Pillow reads, except PostScript;
            * a PIL image;
            * an array `[H, W]` or `[H, W, 1, 3 or 4]` of uint8, uint16, or floating point in 0..1;
            * a tensor of the same shapes, or channels first, `[1, 3 or 4, H, W]`. An ambiguous shape is read as
              channels first.

    Raises:
        TypeError: for another type or dtype.
        FileNotFoundError: if the file does not exist.
        PermissionError: if the file may not be read.
        ImageError: (a ValueError) if the image is damaged, empty, of another shape, larger than `MAX_PIXELS`, or not
            finite.

    Example:
        >>> import numpy as np
        >>> from dcam_fast import load_image
        >>> load_image(np.zeros((4, 6), np.float32)).shape
        (4, 6, 3)
    """
    if isinstance(source, str | os.PathLike):
        return _from_file(Path(source))
    if isinstance(source, Image.Image):
        return _from_pil(source, f"a PIL image of mode {source.mode}")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Tensor):
        return _from_tensor(source)
    raise TypeError(f"load_image: image must be a path, PIL image, array or tensor, got {type(source).__name__}")


def grid_boxes(grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Pixel boxes of a regular grid over an image, float32 [h, w, 4] of (x0, y0, x1, y1).

    >>> grid_boxes((1, 2), (10, 30)).tolist()
    [[[0.0, 0.0, 15.0, 10.0], [15.0, 0.0, 30.0, 10.0]]]

    Args:
        grid: (h, w) in cells.
        size: (H, W) of the image in pixels.
    """
    y, x = (torch.linspace(0, side, cells + 1) for cells, side in zip(grid, size, strict=True))
    edges = (x[:-1], y[:-1, None], x[1:], y[1:, None])
    return torch.stack([edge.expand(grid) for edge in edges], -1)


def cell_colors(image: NDArray[np.uint8], boxes: Tensor) -> Tensor:
    """Mean color of each cell of a grid, float32 `[3, h, w]` in 0..1, on the CPU.

    Args:
        image: uint8 `[H, W, 3]`.
        boxes: `[h, w, 4]`, the pixels (x0, y0, x1, y1) of each cell, x by column and y by row. They are rounded to
            whole pixels. A cell without pixels, or outside the image, takes the nearest pixel.
    """
    corners = boxes.detach().cpu().numpy()
    total, height = _sum_between(image, corners[:, 0, 1], corners[:, 0, 3], 0)
    total, width = _sum_between(total, corners[0, :, 0], corners[0, :, 2], 1)
    mean = total / (255.0 * height[:, None, None] * width[:, None])
    return torch.from_numpy(np.ascontiguousarray(mean.transpose(2, 0, 1), np.float32))


def _sum_between(
    values: NDArray[np.integer], starts: NDArray[np.float32], ends: NDArray[np.float32], axis: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Sums of `values` over each interval of an axis, and the lengths of the intervals."""
    size = values.shape[axis]
    first = np.rint(starts).astype(np.int64).clip(0, size - 1)
    last = np.rint(ends).astype(np.int64).clip(first + 1, size)
    sums = [values.take(range(a, b), axis).sum(axis, np.uint64) for a, b in zip(first, last, strict=True)]
    return np.stack(sums, axis), last - first


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise _error("at least 1 pixel high and wide", f"{height} x {width} (height x width)")
    if height * width > MAX_PIXELS:
        raise _error(f"at most {MAX_PIXELS:,} pixels", f"{height} x {width} (height x width)")


def exif_orientation(path: Path) -> int:
    """The EXIF orientation of an image file, 1 to 8. 1 (upright) if it has no readable EXIF data.

    Raises:
        FileNotFoundError, PermissionError, ImageError: as `load_image`.
    """
    return _use(path, _orientation)


def open_image(path: Path) -> Image.Image:
    """A file as a decoded, upright PIL image in the mode of the file.

    Raises:
        FileNotFoundError, PermissionError, ImageError: as `load_image`.
    """
    return _use(path, lambda image: _decoded(image, f"'{path}'", owned=True))


def _from_file(path: Path) -> NDArray[np.uint8]:
    return _use(path, lambda image: _from_pil(image, f"'{path}'", owned=True))


def _use(path: Path, use: Callable[[Image.Image], Result]) -> Result:
    """The result of a function on the opened image of a file."""
    if not path.exists():
        raise FileNotFoundError(f"load_image: image must be a file that exists, got '{path}'")
    if not path.is_file():
        raise _error("a file", f"'{path}', which is not a file")
    if path.stat().st_size == 0:
        raise _error("a picture", f"'{path}', which is empty")
    try:
        with _open(path, path) as image:
            return use(image)
    except ImageError:
        content = _without_metadata(path)
        if content is None:
            raise
        with _open(content, path) as image:
            return use(image)


def _open(source: Path | io.BytesIO, path: Path) -> Image.Image:
    Image.init()
    # PostScript is a program: opening a file would run it
    formats = [name for name in Image.OPEN if name != "EPS"]
    try:
        return Image.open(source, formats=formats)
    except Image.DecompressionBombError as error:
        raise _error(f"at most {MAX_PIXELS:,} pixels", f"'{path}': {error}") from error
    except PermissionError as error:
        raise PermissionError(f"load_image: image must be a file that may be read, got '{path}'") from error
    except Exception as error:  # Pillow raises almost any exception for damaged headers
        raise _error("a picture in a format that Pillow reads", f"'{path}'") from error


def _without_metadata(path: Path) -> io.BytesIO | None:
    """A PNG file reduced to the chunks that its pixels need, and its EXIF data if that is intact. Pillow rejects the
    whole file if any other chunk is damaged. None for other formats."""
    kept = io.BytesIO()
    with path.open("rb") as file:
        signature = file.read(8)
        if signature != b"\x89PNG\r\n\x1a\n":
            return None
        kept.write(signature)
        while len(head := file.read(8)) == 8:
            body = file.read(int.from_bytes(head[:4], "big") + 4)
            sound = head[4:] == b"eXIf" and zlib.crc32(head[4:] + body[:-4]) == int.from_bytes(body[-4:], "big")
            if sound or head[4:] in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
                kept.write(head + body)
    kept.seek(0)
    return kept


def _orientation(image: Image.Image) -> int:
    try:
        values = image.tag_v2 if isinstance(image, TiffImageFile) else image.getexif()
        found = values.get(ORIENTATION)
    except Exception:  # Pillow raises almost any exception for damaged metadata, which the pixels do not need
        return 1
    return found if found in _TURNS else 1


def _decoded(image: Image.Image, name: str, *, owned: bool) -> Image.Image:
    """The image with its pixels decoded, and upright.

    Args:
        image: as opened, or the caller's.
        name: for messages.
        owned: whether the caller of `load_image` has no reference to it, so that it may be changed.
    """
    _check_size(image.height, image.width)
    orientation = None
    if owned and isinstance(image, TiffImageFile):
        # Pillow rotates TIFF itself after reading all metadata, and fails if any is damaged
        orientation = _orientation(image)
        image.getexif = Image.Exif  # type: ignore[method-assign]
    try:
        image.load()
    except Exception as error:  # Pillow raises almost any exception for damaged data
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _error("whole", f"{name}, which does not decode: {reason}") from error
    if orientation is None:
        orientation = _orientation(image)
    return image if orientation == 1 else image.transpose(_TURNS[orientation])


def _from_pil(image: Image.Image, name: str, *, owned: bool = False) -> NDArray[np.uint8]:
    rawmode = _rawmode(image)
    image = _decoded(image, name, owned=owned)
    if image.mode == "F":
        return _from_array(np.asarray(image))
    if image.mode.startswith("I"):  # 16 bits, which Pillow may store in 32
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise _error("of integers from 0 to 65535", f"{name} with {values.min()} to {values.max()}")
        return _over_key(_from_array(values.astype(np.uint16)), image, rawmode)
    if image.mode in ("1", "L", "RGB"):
        return _over_key(np.array(image.convert("RGB")), image, rawmode)
    if image.mode == "La":  # Pillow converts it to nothing else
        image = image.convert("LA")
    if image.has_transparency_data:
        return _over_white(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"))


def _rawmode(image: Image.Image) -> str:
    """The pixel format of the file, which Pillow knows until it decodes the pixels. Empty if unknown."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _over_key(pixels: NDArray[np.uint8], image: Image.Image, rawmode: str) -> NDArray[np.uint8]:
    """Pixels with white in place of the transparent key color of the image.

    Pillow gives the key with the bit depth of the file, and the pixels with 8 bits (except 16-bit gray).
    """
    key = image.info.get("transparency")
    channels = len(image.getbands())
    colors = key if isinstance(key, tuple) else (key,)
    if len(colors) != channels or not all(isinstance(color, int) for color in colors):
        return pixels
    if image.mode == "1":
        colors = (colors[0] != 0,)
    elif rawmode in ("L;2", "L;4"):
        colors = (colors[0] * (85 if rawmode == "L;2" else 17),)
    elif channels == 3 and (rawmode.startswith("RGB;16") or max(colors) > 255):
        colors = tuple(color >> 8 for color in colors)
    values = np.asarray(image).reshape(*pixels.shape[:2], channels)
    pixels[(values == np.array(colors)).all(2)] = 255
    return pixels


def _from_array(values: NDArray, shape: list[int] | None = None) -> NDArray[np.uint8]:
    """An array as uint8 RGB. `shape` is the shape that messages give, if it differs from that of `values`."""
    shape = shape or list(values.shape)
    floating = values.dtype.kind == "f"
    if values.dtype not in (np.uint8, np.uint16) and not floating:
        raise TypeError(f"load_image: image must be of uint8, uint16 or floating point, got {values.dtype}")
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in CHANNELS:
        raise _error("[H, W] or [H, W, 1, 3 or 4] (a tensor also channels first)", shape)
    _check_size(*values.shape[:2])
    if floating:
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise _error("finite", "NaN or Inf in it")
        # values that round to 0..255 are accepted: resampling leaves the range 0..1 slightly
        if not (low > -0.5 / 255 and high < 255.5 / 255):
            raise _error("from 0 to 1 where it is floating point", f"{low:g} to {high:g}")
        values = np.rint(values * np.float32(255)).clip(0, 255)
    elif values.dtype == np.uint16:
        values = (values.astype(np.uint32) + 128) // 257
    pixels = values.astype(np.uint8, order="C")
    match pixels.shape[2]:
        case 1:
            return pixels.repeat(3, axis=2)
        case 4:
            return _over_white(pixels)
        case _:
            return pixels


def _from_tensor(tensor: Tensor) -> NDArray[np.uint8]:
    tensor = tensor.detach().cpu()
    values = (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # NumPy has no bfloat16
    channels_first = values.ndim == 3 and values.shape[0] in CHANNELS
    return _from_array(np.moveaxis(values, 0, 2) if channels_first else values, list(tensor.shape))


def _over_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    alpha = rgba[..., 3:].astype(np.uint32)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
