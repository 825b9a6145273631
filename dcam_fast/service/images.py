"""Images in requests: `data:` URLs, base64 and uploads, checked before they are decoded."""

from __future__ import annotations

import binascii
import io
import re
import warnings
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dcam_fast.images import ImageError, load_image
from dcam_fast.service.errors import ServiceError

FORMATS: Final = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
DATA_URL: Final = re.compile(r"data:image/[\w.+-]{1,32};base64,", re.ASCII | re.IGNORECASE)
MAX_SIDE: Final = 32_768  # pixels: resizing and drawing a line of millions of pixels takes gigabytes and minutes
MAX_SCANS: Final = 100  # of a JPEG: each pass over all pixels costs time and no bytes
MARKER: Final = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")  # of JPEG, but those that stand in a scan
END_OF_IMAGE, START_OF_SCAN = b"\xd9", b"\xda"
NEED: Final = f"a picture ({', '.join(FORMATS)}) as a data: URL or base64"


def is_url(text: str) -> bool:
    """Whether a text is a URL of any scheme but `data:`."""
    return re.match(r"\s*[a-z][a-z0-9+.-]*://", text, re.IGNORECASE) is not None


def from_text(text: str) -> bytes:
    """The bytes of a `data:` URL or base64.

    Raises:
        ServiceError: if it is neither.
    """
    head = DATA_URL.match(text)
    try:
        return binascii.a2b_base64(text[head.end() if head else 0 :], strict_mode=True)
    except ValueError as error:
        raise _error(f"{len(text)} characters of something else") from error


def decode(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """A file's bytes as uint8 `[H, W, 3]`. The size is checked before pixels are decoded.

    Raises:
        ServiceError: 413 for more than `max_pixels` or `MAX_SIDE`, 422 for anything that is no picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels is the limit
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(max_pixels, "many more") from error
    except Exception as error:  # Pillow raises almost any exception for damaged headers
        raise _error(f"{len(data)} bytes of something else") from error
    with image:
        if image.width * image.height > max_pixels:
            raise _too_large(max_pixels, f"{image.height} x {image.width}")
        if max(image.size) > MAX_SIDE:
            message = (
                f"service: image must be of at most {MAX_SIDE:,} pixels a side, got {image.height} x {image.width}"
            )
            raise ServiceError(413, "image_too_large", message, "image")
        if image.format in ("JPEG", "MPO") and count_scans(data) > MAX_SCANS:
            raise _error(f"a JPEG of more than {MAX_SCANS} scans")
        try:
            return load_image(image)
        except ImageError as error:
            raise ServiceError(422, "invalid_image", str(error), "image") from error


def count_scans(data: bytes) -> int:
    """How many passes over its pixels a JPEG file makes; those of pictures in its metadata do not count."""
    scans = place = 0
    while (marker := MARKER.search(data, place)) and marker[1] != END_OF_IMAGE:
        scans += marker[1] == START_OF_SCAN
        has_length = place > 0  # the first marker is that of the file
        place = marker.end() + (int.from_bytes(data[marker.end() : marker.end() + 2]) if has_length else 0)
    return scans


def _error(got: str) -> ServiceError:
    return ServiceError(422, "invalid_image", f"service: image must be {NEED}, got {got}", "image")


def _too_large(max_pixels: int, got: str) -> ServiceError:
    message = f"service: image must be of at most {max_pixels:,} pixels, got {got}"
    return ServiceError(413, "image_too_large", message, "image")
