"""`refine`: AKD, DACG, CBA and SICD in one fused call (docs/method.md, sections 2 to 5)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcam_fast.config import DEFAULT, UNGUIDED, RefineConfig
from dcam_fast.ops import reference
from dcam_fast.ops._arguments import (
    check_array,
    check_bool,
    check_config,
    check_number,
    check_pair,
    check_tensor,
    is_int,
)
from dcam_fast.ops._backends import (
    Op,
    array_kernels,
    check_apart,
    check_float,
    check_map,
    check_maps,
    float_like,
    plain,
    result_dtype,
)
from dcam_fast.ops.guided_filter import check_guide, guided_filter
from dcam_fast.ops.pool import check_outputs


def _reference(
    maps: Tensor,
    config: Sequence[float],
    grids: Tensor | None,
    repetition: float,
    repetitions: Tensor | None,
    image_side: float,
    check: bool,
) -> Tensor:
    ratio = repetition if repetitions is None else repetitions
    settings = RefineConfig.from_packed(config)
    return reference.refine(maps, settings, grids=grids, repetition=ratio, image_side=image_side, check=check)


def _check_batch(maps: Tensor, grids: Tensor | None) -> int:
    """Check maps and grids; returns the number of maps."""
    if grids is None:
        check_maps("refine", maps)
        return maps.shape[0]
    check_tensor("refine", "maps", maps)
    check_tensor("refine", "grids", grids)
    if maps.dim() != 1:
        raise ValueError(f"refine: maps must be flat, [sum of h w], with grids, got {list(maps.shape)}")
    if grids.dim() != 2 or grids.shape[1] != 2 or grids.dtype is not torch.int64 or not grids.is_cpu:
        raise ValueError(
            f"refine: grids must be int64 [T, 2] on the CPU, got {grids.dtype} {list(grids.shape)} on {grids.device}"
        )
    return grids.shape[0]


def _check_buffer(out: Tensor, maps: Tensor) -> None:
    dtype = result_dtype(maps)
    if out.dtype is not dtype or out.shape != maps.shape or out.device != maps.device or not out.is_contiguous():
        raise ValueError(
            f"refine: out must be contiguous {dtype} {list(maps.shape)} on {maps.device}, "
            f"got {out.dtype} {list(out.shape)} on {out.device}"
        )


def _check(
    maps: Tensor,
    config: Sequence[float],
    grids: Tensor | None,
    repetition: float,
    repetitions: Tensor | None,
    *_: object,
) -> None:
    count = _check_batch(maps, grids)
    if repetitions is not None and repetitions.shape != (count,):
        raise ValueError(f"refine: repetition must be a float or float [{count}], got {list(repetitions.shape)}")
    RefineConfig.from_packed(config)


def _check_out(
    out: Tensor,
    maps: Tensor,
    config: Sequence[float],
    grids: Tensor | None,
    repetition: float,
    repetitions: Tensor | None,
    *_: object,
) -> None:
    _check(maps, config, grids, repetition, repetitions)
    _check_buffer(out, maps)
    # the only input that may be written into is `maps` itself
    in_place = out.data_ptr() == maps.data_ptr() and out.dtype is maps.dtype and maps.is_contiguous()
    check_apart("refine", "out", out, maps=None if in_place else maps, grids=grids, repetition=repetitions)


_INPUTS = (
    "Tensor maps, float[] config, Tensor? grids, float repetition, Tensor? repetitions, float image_side, bool check"
)
_REFINE = Op(
    "refine",
    f"({_INPUTS}) -> Tensor",
    reference=_reference,
    check=_check,
    fake=lambda maps, *_: float_like(maps),
    triton="refine",
)
_REFINE_OUT = Op(
    "refine_out",
    f"(Tensor(a!) out, {_INPUTS}) -> ()",
    reference=lambda out, *inputs: (_reference(*inputs),),
    check=_check_out,
    triton="refine",
)


def repetition_ratio(token_ids: Iterable[int] | Tensor) -> float:
    """rho of SICD (docs/method.md, section 5): distinct token ids that occur more than once, per token of the answer.

    >>> repetition_ratio([5, 7, 5, 5])
    0.25

    Args:
        token_ids: of the answer; if it is empty, the ratio is 0.

    Raises:
        TypeError: `token_ids` is not a sequence of integers.
    """
    if isinstance(token_ids, (Tensor, np.ndarray)) and token_ids.ndim == 1:
        token_ids = token_ids.tolist()
    ids = list(token_ids) if isinstance(token_ids, Iterable) and not isinstance(token_ids, Tensor) else None
    if ids is None or not all(map(is_int, ids)):
        raise TypeError(f"repetition_ratio: token_ids must be a sequence of integers, got {token_ids!r}")
    counts = Counter(ids)
    return sum(count > 1 for count in counts.values()) / max(counts.total(), 1)


def _grids(grids: object) -> Tensor:
    """(h, w) of each map as int64 [T, 2]."""
    if not isinstance(grids, Sequence) or isinstance(grids, str):
        raise TypeError(f"refine: grids must be a tensor or a sequence of (h, w), got {type(grids).__name__}")
    pairs = [check_pair("refine", "grids", grid) for grid in grids]
    if any(abs(size) >= 2**62 for pair in pairs for size in pair):  # too large for int64
        raise ValueError(f"refine: grids must cover the cells of maps, got {pairs}")
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def check_image_side(caller: str, image_side: float | None) -> float:
    if image_side is None or not 0 < check_number(caller, "image_side", image_side) < math.inf:
        raise ValueError(
            f"{caller}: image_side must be the image's shorter side in pixels for this config, got {image_side}"
        )
    return float(image_side)


def check_no_guide(caller: str, config: RefineConfig) -> None:
    if config.needs_guide:
        raise ValueError(
            f"{caller}: config must not need a guide, which only refine and guided_filter take, "
            f"got denoise={config.denoise!r}"
        )


def _check_ratio(caller: str, repetition: float) -> float:
    ratio = check_number(caller, "repetition", repetition)
    if not 0 <= ratio <= 1:
        raise ValueError(f"{caller}: repetition must be from 0 to 1, got {repetition}")
    return ratio


def check_ratios(
    caller: str, repetition: float | Tensor, count: int, device: torch.device
) -> tuple[float, Tensor | None]:
    """Check `repetition` of `count` maps; returns it as the operators take it: a number, or one number for each map."""
    if not isinstance(repetition, Tensor):
        return _check_ratio(caller, repetition), None
    if repetition.shape != (count,) or repetition.device != device or not repetition.is_floating_point():
        raise ValueError(
            f"{caller}: repetition must be a float or float [{count}] on {device}, "
            f"got {repetition.dtype} {list(repetition.shape)} on {repetition.device}"
        )
    return 0.0, plain(repetition)


def refine(
    maps: Tensor,
    config: RefineConfig | None = None,
    *,
    grids: Tensor | Sequence[tuple[int, int]] | None = None,
    repetition: float | Tensor = 0.0,
    image_side: float | None = None,
    guide: Tensor | None = None,
    check: bool = True,
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Refine raw maps by the modules of Diffusion-CAM that `config` switches on (docs/method.md, sections 2 to 5).

    >>> raw = torch.tensor([[[0.1, 0.1, 0.1], [0.1, 0.9, 0.1]]])
    >>> refine(raw).argmax().item()  # the peak stays
    4

    Args:
        maps: [T, h, w]; float32, bfloat16 or float16. With `grids` a flat batch of maps of any sizes, [sum of h w].
        config: the settings; see `dcam_fast.profile` for the named ones. None: the settings of the method `default`,
            which are the profile `default` with a `guide` and `unguided` without one.
        grids: (h, w) of each map of a flat batch, or int64 [T, 2] on the CPU.
        repetition: rho, the share of repeated tokens in the answer (`repetition_ratio`), 0 to 1: one number, or float
            [T], whose values are not checked.
        image_side: shorter side of the model's input image in pixels, for configs with `needs_image_side`.
        guide: float32 [3, h, w], the colors of the cells (`dcam_fast.images.cell_colors`), for configs with
            `needs_guide`. Not with `grids`.
        check: raise for NaN and Inf, which synchronizes on a GPU. Otherwise such a map becomes zeros, and other maps
            are unaffected.
        out: float32 of the shape of `maps`, contiguous, to write into. It may be `maps` itself, and must not overlap
            any other input.
        backend: name of a backend; None: the fastest that serves the tensor's device.

    Returns:
        float32 in 0..1, of the shape of `maps` (float64 for float64 input on the reference). All-zero and constant
        maps give zeros.

    Raises:
        ValueError: a shape, device or number is wrong, or a value is NaN or Inf.
        TypeError: a type or dtype is wrong.
        RuntimeError: the backend cannot run here.
    """
    if grids is not None and not isinstance(grids, Tensor):
        grids = _grids(grids)
    count = _check_batch(maps, grids)
    if config is None:
        config = UNGUIDED if guide is None else DEFAULT
    check_config("refine", config)
    check_bool("refine", "check", check)
    if grids is not None:
        check_no_guide("refine of a flat batch", config)
    side = check_image_side("refine", image_side) if config.needs_image_side else 0.0
    ratio, ratios = check_ratios("refine", repetition, count, maps.device)
    op = _REFINE if out is None else _REFINE_OUT
    overload = op.overload(maps, backend, "refine")
    check_float("refine", "maps", maps, overload)
    colors = check_guide("refine", guide, maps) if config.needs_guide else None
    if out is not None:
        check_outputs("refine", out=out)
        _check_buffer(out, maps)
    if colors is not None:
        maps = guided_filter(maps, colors, config.guide_radius, config.guide_epsilon, backend=backend)
    if out is None:
        return overload(plain(maps), config.packed, grids, ratio, ratios, side, check)
    overload(out, plain(maps), config.packed, grids, ratio, ratios, side, check)
    return out


def refine_array(
    map: NDArray[np.float32],
    config: RefineConfig = UNGUIDED,
    *,
    repetition: float = 0.0,
    image_side: float | None = None,
) -> NDArray[np.float32]:
    """`refine` of one NumPy map, without torch's dispatcher: the lowest latency.

    >>> refine_array(np.eye(2, dtype=np.float32)).shape
    (2, 2)

    Args:
        map: float32 [h, w].
        config: without a guide.
        repetition: as in `refine`, one number.
        image_side: as in `refine`.

    Raises:
        ValueError: a shape, dtype or number is wrong, or a value is NaN or Inf.
        TypeError: a type is wrong.
    """
    check_array("refine_array", "map", map)
    check_config("refine_array", config)
    check_no_guide("refine_array", config)
    side = check_image_side("refine_array", image_side) if config.needs_image_side else 0.0
    ratio = _check_ratio("refine_array", repetition)
    if array_kernels is None:
        tensor = check_map("refine_array", map)
        if not np.isfinite(map).all():
            raise ValueError("refine_array: map must be finite, got NaN or Inf")
        return refine(tensor, config, repetition=ratio, image_side=image_side)[0].numpy()
    return array_kernels.refine_array(map, config.packed, ratio, side)
