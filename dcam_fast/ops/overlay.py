"""`overlay` and `upsample`: maps at the pixels of the image they explain."""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
import torch
from torch import Tensor

from dcam_fast.ops import reference
from dcam_fast.ops._arguments import check_bool, check_number, check_pair, check_tensor
from dcam_fast.ops._backends import Op, check_float, check_maps, float_like, plain

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


def _check_upsample(maps: Tensor, boxes: Tensor, height: int, width: int, *_: object) -> None:
    _check("upsample", maps, boxes)
    if not (1 <= height <= MAX_PIXELS and 1 <= width <= MAX_PIXELS):
        raise ValueError(f"upsample: size must be (H, W) of at least one pixel, got {(height, width)}")


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
    maps: Tensor, image: Tensor, boxes: Tensor, colormap: Tensor, alpha: float, *_: object
) -> None:
    _check_overlay(maps, image, boxes, alpha)
    _check_table(colormap, maps.device)


_UPSAMPLE = Op(
    "upsample",
    "(Tensor maps, Tensor boxes, int height, int width, bool check) -> Tensor",
    reference=lambda maps, boxes, height, width, check: reference.upsample(maps, boxes, (height, width), check),
    check=_check_upsample,
    fake=lambda maps, boxes, height, width, _: float_like(maps, (maps.shape[0], height, width)),
    triton="overlay",
)
_OVERLAY = Op(
    "overlay",
    "(Tensor maps, Tensor image, Tensor boxes, Tensor colormap, float alpha, bool check) -> Tensor",
    reference=reference.overlay,
    check=_check_overlay_operator,
    fake=lambda maps, image, *_: image.new_empty((maps.shape[0], *image.shape)),
    triton="overlay",
)


@functools.cache
def _table(name: str, device: torch.device) -> Tensor:
    from matplotlib import colormaps

    if name not in colormaps:
        raise ValueError(f"overlay: colormap must be the name of a matplotlib colormap, got {name!r}")
    return torch.from_numpy(colormaps[name](np.arange(256), bytes=True)[:, :3].copy()).to(device)


def color_table(name: str, device: torch.device) -> Tensor:
    """uint8 [256, 3] of a matplotlib colormap, on `device`."""
    return _table(name, device)


# As torch.compiler.assume_constant_result does, without importing dynamo, which takes a second.
color_table._dynamo_marked_constant = True  # type: ignore[attr-defined]


def upsample(
    maps: Tensor, boxes: Tensor, size: tuple[int, int], *, check: bool = True, backend: str | None = None
) -> Tensor:
    """Upsample maps to pixels: bilinear between the centers of the cells' boxes, constant beyond the outermost.

    >>> from dcam_fast.images import grid_boxes
    >>> upsample(torch.rand(2, 3, 4), grid_boxes((3, 4), (30, 40)), (30, 40)).shape
    torch.Size([2, 30, 40])

    Args:
        maps: [T, h, w]; float32, bfloat16 or float16.
        boxes: float32 [h, w, 4], pixel box (x0, y0, x1, y1) of each cell; the center of pixel i is at i + 0.5. x must
            depend on the column alone and y on the row alone, both ascending. Gaps between boxes are interpolated.
        size: (H, W) of the image in pixels.
        check: raise for other boxes, which synchronizes on a GPU. Otherwise such boxes give undefined pixel values.
        backend: name of a backend; None: the fastest that serves the tensor's device.

    Returns:
        float32 [T, H, W] (float64 for float64 input on the reference).

    Raises:
        ValueError: a shape, device, size or box is wrong.
        TypeError: a type or dtype is wrong.
        RuntimeError: the backend cannot run here.
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
    """Draw each map in color over the image.

    Values are upsampled as by `upsample`, clipped to 0..1 (NaN cells count as 0), looked up in the color table at
    round(255 value), and blended: (1 - alpha) image + alpha color, halves rounded up. Pixels outside the rectangle
    that the boxes span keep the image: they are not visible to the model.

    >>> from dcam_fast.images import grid_boxes
    >>> image = torch.zeros(30, 40, 3, dtype=torch.uint8)
    >>> overlay(torch.rand(2, 3, 4), image, grid_boxes((3, 4), (30, 40))).shape
    torch.Size([2, 30, 40, 3])

    Args:
        maps: [T, h, w]; float32, bfloat16 or float16.
        image: uint8 [H, W, 3].
        boxes: float32 [h, w, 4], pixel box (x0, y0, x1, y1) of each cell; see `upsample`.
        colormap: name of a matplotlib colormap, or uint8 [256, 3].
        alpha: weight of the color, 0 to 1.
        check: as in `upsample`.
        backend: name of a backend; None: the fastest that serves the tensors' device.

    Returns:
        uint8 [T, H, W, 3].

    Raises:
        ValueError: a shape, device, number, colormap or box is wrong.
        TypeError: a type or dtype is wrong.
        RuntimeError: the backend cannot run here.
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
