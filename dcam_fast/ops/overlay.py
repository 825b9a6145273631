"""`overlay` and `upsample`: maps at the pixels of the image they explain."""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
import torch
from torch import Tensor

from dcam_fast.ops import reference
from dcam_fast.ops._arguments import check_bool, check_number, check_pair, check_tensor
from dcam_fast.ops._backends import Op, check_float, check_maps, plain


def _fake_upsample(maps: Tensor, boxes: Tensor, height: int, width: int, check: bool) -> Tensor:
    dtype = torch.float64 if maps.dtype is torch.float64 else torch.float32
    return maps.new_empty((maps.shape[0], height, width), dtype=dtype)


def _reference_upsample(maps: Tensor, boxes: Tensor, height: int, width: int, check: bool) -> Tensor:
    return reference.upsample(maps, boxes, (height, width), check).contiguous()


def _fake_overlay(maps: Tensor, image: Tensor, boxes: Tensor, colormap: Tensor, alpha: float, check: bool) -> Tensor:
    return image.new_empty((maps.shape[0], *image.shape))


def _reference_overlay(
    maps: Tensor, image: Tensor, boxes: Tensor, colormap: Tensor, alpha: float, check: bool
) -> Tensor:
    return reference.overlay(maps, image, boxes, colormap, alpha, check)


MAX_PIXELS: Final = 2**30  # a side


def _check(caller: str, maps: Tensor, boxes: Tensor) -> None:
    check_maps(caller, maps)
    check_tensor(caller, "boxes", boxes)
    need = (maps.shape[1], maps.shape[2], 4)
    if boxes.shape != need or boxes.dtype is not torch.float32 or boxes.device != maps.device:
        raise ValueError(
            f"{caller}: boxes must be float32 {list(need)} on {maps.device}, "
            f"got {boxes.dtype} {list(boxes.shape)} on {boxes.device}"
        )


def _check_upsample(maps: Tensor, boxes: Tensor, height: int, width: int, check: bool) -> None:
    _check("upsample", maps, boxes)
    if not (1 <= height <= MAX_PIXELS and 1 <= width <= MAX_PIXELS):
        raise ValueError(f"upsample: size must be (H, W) of a pixel at least, got {(height, width)}")


def _check_overlay(maps: Tensor, image: Tensor, boxes: Tensor, alpha: float) -> None:
    _check("overlay", maps, boxes)
    check_tensor("overlay", "image", image)
    if image.dim() != 3 or image.shape[2] != 3 or image.dtype is not torch.uint8 or image.numel() == 0:
        raise ValueError(f"overlay: image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    if image.device != maps.device:
        raise ValueError(f"overlay: image must be on {maps.device}, got {image.device}")
    if not 0 <= check_number("overlay", "alpha", alpha) <= 1:
        raise ValueError(f"overlay: alpha must be from 0 to 1, got {alpha}")


def _check_table(colormap: Tensor, device: torch.device) -> None:
    if not isinstance(colormap, Tensor):
        raise TypeError(f"overlay: colormap must be a name or a tensor, got {type(colormap).__name__}")
    if colormap.shape != (256, 3) or colormap.dtype is not torch.uint8 or colormap.device != device:
        raise ValueError(
            f"overlay: colormap must be a name or uint8 [256, 3] on {device}, "
            f"got {colormap.dtype} {list(colormap.shape)} on {colormap.device}"
        )


def _check_overlay_operator(
    maps: Tensor, image: Tensor, boxes: Tensor, colormap: Tensor, alpha: float, check: bool
) -> None:
    _check_overlay(maps, image, boxes, alpha)
    _check_table(colormap, maps.device)


_UPSAMPLE = Op(
    "upsample",
    "(Tensor maps, Tensor boxes, int height, int width, bool check) -> Tensor",
    _fake_upsample,
    _reference_upsample,
    _check_upsample,
    "overlay",
)
_OVERLAY = Op(
    "overlay",
    "(Tensor maps, Tensor image, Tensor boxes, Tensor colormap, float alpha, bool check) -> Tensor",
    _fake_overlay,
    _reference_overlay,
    _check_overlay_operator,
    "overlay",
)


@functools.cache
def _table(name: str, device: torch.device) -> Tensor:
    from matplotlib import colormaps

    if name not in colormaps:
        raise ValueError(f"overlay: colormap must be the name of one of matplotlib's, got {name!r}")
    return torch.from_numpy(colormaps[name](np.arange(256), bytes=True)[:, :3].copy()).to(device)


def color_table(name: str, device: torch.device) -> Tensor:
    """uint8 [256, 3] of a matplotlib colormap, on `device`."""
    return _table(name, device)


# What torch.compiler.assume_constant_result does, which would import all of dynamo: a second that every import pays.
color_table._dynamo_marked_constant = True  # type: ignore[attr-defined]


def upsample(
    maps: Tensor, boxes: Tensor, size: tuple[int, int], *, check: bool = True, backend: str | None = None
) -> Tensor:
    """Maps at every pixel: bilinear between the centers of the cells' pixel boxes, clamped beyond the outermost.

    Args:
        maps: [T, h, w]; float32, bfloat16 or float16.
        boxes: float32 [h, w, 4], pixel box (x0, y0, x1, y1) of each cell; pixel i has its center at i + 0.5. x must
            come from the column and y from the row, both ascending; gaps between boxes are interpolated across.
        size: (H, W) of the image in pixels.
        check: refuse boxes that are not so (on a GPU this waits for the boxes). Otherwise pixels of such boxes can have
            any value.
        backend: a backend by name; None: the fastest that serves the tensor's device.

    Returns:
        float32 [T, H, W] (float64 for float64 input on the reference).
    """
    height, width = check_pair("upsample", "size", size)
    _check_upsample(maps, boxes, height, width, check)
    check_bool("upsample", "check", check)
    overload = _UPSAMPLE.overload(maps, backend)
    check_float("upsample", "maps", maps, overload)
    return overload(plain(maps), plain(boxes), height, width, check)


def overlay(
    maps: Tensor,
    image: Tensor,
    boxes: Tensor,
    colormap: str | Tensor = "turbo",
    alpha: float = 0.5,
    *,
    check: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Each map in color over the image.

    Values are upsampled as by `upsample`, clipped to 0..1 (NaN cells count as 0), looked up in the color table at
    round(255 value), and blended: (1 - alpha) image + alpha color, halves rounded up. Pixels outside the rectangle
    that the boxes span were never seen by the model, and keep the image.

    Args:
        maps: [T, h, w]; float32, bfloat16 or float16.
        image: uint8 [H, W, 3].
        boxes: float32 [h, w, 4], pixel box (x0, y0, x1, y1) of each cell; see `upsample`.
        colormap: name of a matplotlib colormap, or uint8 [256, 3].
        alpha: weight of the color, 0 to 1.
        check: as in `upsample`.
        backend: a backend by name; None: the fastest that serves the tensors' device.

    Returns:
        uint8 [T, H, W, 3].
    """
    _check_overlay(maps, image, boxes, alpha)
    if isinstance(colormap, str):
        colormap = color_table(colormap, maps.device)
    else:
        _check_table(colormap, maps.device)
    check_bool("overlay", "check", check)
    overload = _OVERLAY.overload(maps, backend)
    check_float("overlay", "maps", maps, overload)
    return overload(plain(maps), image, plain(boxes), colormap, float(alpha), check)
