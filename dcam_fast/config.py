"""Settings of the refinement: `RefineConfig` and its named profiles (docs/method.md, sections 2 to 5)."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Final, Literal

Denoise = Literal["none", "rank", "gaussian", "guided"]
SizeRule = Literal["grid", "image"]
Mode = Literal["baseline", "gaussian_only", "confidence_only", "background_only", "debiasing_only", "all_methods"]

DENOISE: Final[tuple[Denoise, ...]] = ("none", "rank", "gaussian", "guided")
SIZE_RULES: Final[tuple[SizeRule, ...]] = ("grid", "image")
MODES: Final[tuple[Mode, ...]] = (
    "baseline",
    "gaussian_only",
    "confidence_only",
    "background_only",
    "debiasing_only",
    "all_methods",
)
KERNEL_SIZES: Final = (3, 5, 7, 9, 11)
MAX_SIGMA: Final = 5.0
MAX_RADIUS: Final = 8
MIN_EPSILON: Final = 1e-5  # below it float32 cannot tell a window of one color from a window of two
MAX_EPSILON: Final = 1e6  # far above it float32 overflows; variances of colors are at most 0.25
MAX_WEIGHT: Final = 1000.0
_MAX_NUMBER: Final = 3e38  # of a float32, the type of most settings in the kernels
# How the kernels take the fields: names as codes, tuples as one number for each of these names.
_CODES: Final[dict[str, tuple[str, ...]]] = {"denoise": DENOISE, "size": SIZE_RULES}
_PARTS: Final = {
    "gating_percentiles": ("percentile_spread", "percentile_bright", "percentile_dim", "percentile_else"),
    "attenuation_weights": ("weight_median", "weight_p60", "weight_mean", "weight_max"),
}
# Not read by the kernels of `refine`: the guided filter is an op before it.
_NOT_PACKED: Final = ("debiasing_in_ablations", "guide_radius", "guide_epsilon")


@dataclass(frozen=True)
class RefineConfig:
    """Settings of `dcam_fast.ops.refine`. The field defaults are those of the official code (profile `released`).

    Each of the four modules has a switch: `denoise` (AKD), `gating` (DACG), `attenuation` (CBA), `debiasing` (SICD).
    Clipping to the input's maximum and min-max normalization always run, after the third module.

    Fields are normalized: NumPy numbers become Python numbers, sequences become tuples. A config that was written as
    JSON and read again is therefore equal to the original.

    >>> config = RefineConfig(denoise="gaussian", smoothing_sigma=1)
    >>> config.smoothing_sigma, config.gating
    (1.0, True)
    >>> config.ablation("baseline").gating
    False

    Attributes:
        denoise: AKD, adaptive kernel denoising: `rank`. Not part of the published method are `gaussian`, smoothing by
            `smoothing_sigma` cells, and `guided`, smoothing along image edges (`dcam_fast.ops.guided_filter`).
        kernel_size: of the rank filter, odd, 3 to 11; None: from the map's spread, the size and `step_ratio`.
        step_ratio: denoising steps per generated token.
        size: the size that `kernel_size=None` uses: rows of the map (`grid`) or the image's shorter side (`image`).
        smoothing_sigma: of the Gaussian, cells, above 0 and up to 5.
        guide_radius: of the guided filter, cells, 1 to 8.
        guide_epsilon: variance of colors (0 to 1) that counts as an edge, 1e-5 to 1e6.
        gating: DACG, distribution-aware confidence gating.
        gating_spread: standard deviation above which a map is spread.
        gating_bright: mean above which a map is bright.
        gating_dim: mean below which a map is dim.
        gating_percentiles: of spread, bright, dim and other maps, 0 to 100.
        gating_sigma: of the Gaussian, cells; 0: identity, as in the official code.
        attenuation: CBA, contextual background attenuation.
        attenuation_weights: of the median and the 60th percentile, the mean and the maximum; median and mean are over
            positive cells.
        attenuation_floor: the smallest factor, 0 to 1.
        debiasing: SICD, single-instance causal debiasing.
        c_rep: weight of the repetition ratio, 0 to 1.
        c_high: weight of the highest cells, 0 to 1.
        alpha_max: upper bound of alpha, 0 to 1.
        keep_range: share of the range below which the map is kept as it was, 0 to 1.
        debiasing_in_ablations: whether every mode of `ablation` but `baseline` debiases, as in the official code.

    Raises:
        ValueError: a field has the wrong type or is out of its range.
    """

    denoise: Denoise = "rank"
    kernel_size: int | None = None
    step_ratio: float = 0.5
    size: SizeRule = "grid"
    smoothing_sigma: float = 0.6
    guide_radius: int = 4
    guide_epsilon: float = 1e-3
    gating: bool = True
    gating_spread: float = 0.22
    gating_bright: float = 0.35
    gating_dim: float = 0.25
    gating_percentiles: tuple[float, float, float, float] = (90.0, 75.0, 80.0, 85.0)
    gating_sigma: float = 0.0
    attenuation: bool = True
    attenuation_weights: tuple[float, float, float, float] = (0.15, 0.15, 0.20, 0.015)
    attenuation_floor: float = 0.5
    debiasing: bool = True
    c_rep: float = 0.05
    c_high: float = 0.02
    alpha_max: float = 0.5
    keep_range: float = 0.9
    debiasing_in_ablations: bool = True

    def __post_init__(self) -> None:
        self._choose("denoise", DENOISE)
        self._choose("size", SIZE_RULES)
        if self.kernel_size is not None:
            self._set("kernel_size", _as_int(self.kernel_size, 3, 11, odd=True), "None or odd, 3 to 11")
        self._set("guide_radius", _as_int(self.guide_radius, 1, MAX_RADIUS), f"from 1 to {MAX_RADIUS} cells")
        above_zero = math.ulp(0)
        self._set("step_ratio", _as_float(self.step_ratio, above_zero, sys.float_info.max), "a positive number")
        self._set(
            "smoothing_sigma",
            _as_float(self.smoothing_sigma, above_zero, MAX_SIGMA),
            f"over 0 and at most {MAX_SIGMA:g} cells",
        )
        self._set("gating_sigma", _as_float(self.gating_sigma, 0, MAX_SIGMA), f"from 0 to {MAX_SIGMA:g} cells")
        epsilon = _as_float(self.guide_epsilon, MIN_EPSILON, MAX_EPSILON)
        self._set("guide_epsilon", epsilon, f"from {MIN_EPSILON:g} to {MAX_EPSILON:g}")
        self._set("gating_percentiles", _as_floats(self.gating_percentiles, 4, 100), "four numbers from 0 to 100")
        weights = _as_floats(self.attenuation_weights, 4, MAX_WEIGHT)
        self._set("attenuation_weights", weights, f"four numbers from 0 to {MAX_WEIGHT:g}")
        for name in ("gating_spread", "gating_bright", "gating_dim"):
            self._set(name, _as_float(getattr(self, name), 0, _MAX_NUMBER), "a number from 0 on")
        # Outside these ranges maps leave 0..1.
        for name in ("attenuation_floor", "c_rep", "c_high", "alpha_max", "keep_range"):
            self._set(name, _as_float(getattr(self, name), 0, 1), "from 0 to 1")
        for field in fields(self):
            if isinstance(field.default, bool):
                value = getattr(self, field.name)
                self._set(field.name, value if isinstance(value, bool) else None, "True or False")
        # computed once: a call of an op must not build it again
        object.__setattr__(self, "_packed", tuple(self.numbers().values()))

    def _set(self, name: str, value: object, need: str) -> None:
        """Set a field to its normalized value; a `value` of None raises."""
        if value is None:
            raise ValueError(f"RefineConfig: {name} must be {need}, got {getattr(self, name)!r}")
        object.__setattr__(self, name, value)

    def _choose(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        chosen = str(value) if isinstance(value, str) and value in choices else None
        self._set(name, chosen, f"one of {', '.join(choices)}")

    @property
    def needs_image_side(self) -> bool:
        """Whether `refine` needs the size of the model's input image."""
        return self.denoise == "rank" and self.kernel_size is None and self.size == "image"

    @property
    def needs_guide(self) -> bool:
        """Whether `refine` needs the colors of the cells."""
        return self.denoise == "guided"

    @property
    def packed(self) -> tuple[float, ...]:
        """The values of `numbers`, as the kernels take them."""
        return self._packed  # type: ignore[attr-defined, no-any-return]

    def numbers(self) -> dict[str, float]:
        """The settings that the kernels read, by name and in the order of `DCAM_REFINE_SETTINGS` in
        csrc/dcam/refine.h."""
        numbers: dict[str, float] = {}
        for field in _PACKED:
            value = getattr(self, field.name)
            if field.name in _CODES:
                numbers[field.name] = float(_CODES[field.name].index("none" if value == "guided" else value))
            elif field.name in _PARTS:
                numbers.update(zip(_PARTS[field.name], value, strict=True))
            else:
                numbers[field.name] = float(value or 0)
        return numbers

    @classmethod
    def from_packed(cls, packed: Sequence[float]) -> RefineConfig:
        """The config with the given values of `packed`.

        Raises:
            ValueError: these are not the values of any config.
        """
        if len(packed) != len(RELEASED.packed) or not all(map(math.isfinite, packed)):
            raise ValueError(f"refine: config must be RefineConfig.packed, got {list(packed)}")
        numbers = dict(zip(RELEASED.numbers(), packed, strict=True))
        settings: dict[str, Any] = {}
        for field in _PACKED:
            name = field.name
            if name in _PARTS:
                settings[name] = tuple(numbers[part] for part in _PARTS[name])
            elif name in _CODES:
                code, choices = numbers[name], _CODES[name]
                settings[name] = choices[int(code)] if 0 <= code < len(choices) else code
            else:
                settings[name] = bool(numbers[name]) if isinstance(field.default, bool) else numbers[name]
        settings["kernel_size"] = int(settings["kernel_size"]) or None
        return cls(**settings)

    def ablation(self, mode: Mode) -> RefineConfig:
        """This config with only the modules of one row of the ablation table switched on.

        Raises:
            ValueError: `mode` is not one of `MODES`.
        """
        if not isinstance(mode, str) or mode not in MODES:
            raise ValueError(f"RefineConfig.ablation: mode must be one of {', '.join(MODES)}, got {mode!r}")
        every = mode == "all_methods"
        denoise: Denoise = "rank" if self.denoise == "none" else self.denoise
        single_keeps_debiasing = self.debiasing_in_ablations and mode != "baseline"
        return replace(
            self,
            denoise=denoise if every or mode == "gaussian_only" else "none",
            gating=every or mode == "confidence_only",
            attenuation=every or mode == "background_only",
            debiasing=every or mode == "debiasing_only" or single_keeps_debiasing,
        )


_PACKED: Final = tuple(field for field in fields(RefineConfig) if field.name not in _NOT_PACKED)


def _as_int(value: Any, low: int, high: int, *, odd: bool = False) -> int | None:
    """An integer in the range, also of NumPy, as an int; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        return None
    number = int(value)
    return number if low <= number <= high and not (odd and number % 2 == 0) else None


def _as_float(value: Any, low: float, high: float) -> float | None:
    """A number in the range, also of NumPy, as a float; None for anything else, including NaN."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    number: Any = value  # compared before the conversion: an int may be too large for a float
    return float(number) if low <= number <= high else None


def _as_floats(value: object, count: int, high: float) -> tuple[float, ...] | None:
    """A list or tuple of `count` numbers from 0 to `high` as a tuple; None for anything else."""
    if not isinstance(value, (list, tuple)):
        return None
    numbers = [number for number in (_as_float(item, 0, high) for item in value) if number is not None]
    return tuple(numbers) if len(numbers) == len(value) == count else None


RELEASED: Final = RefineConfig()
PAPER: Final = RefineConfig(size="image", gating_sigma=0.3, c_rep=0.02, c_high=0.05, debiasing_in_ablations=False)
# Chosen by dcam_fast.evaluation.studies.search on scenes that no reported number uses (docs/evaluation.md).
UNGUIDED: Final = RefineConfig(  # for maps without their image
    denoise="gaussian",
    smoothing_sigma=0.6,
    gating=False,
    attenuation_weights=(2.25, 2.25, 3.0, 0.225),
    c_rep=0.4,
    c_high=0.02,
    debiasing_in_ablations=False,
)
DEFAULT: Final = replace(UNGUIDED, denoise="guided", guide_radius=4, guide_epsilon=1e-3)
RAW: Final = RefineConfig(  # no module at all
    denoise="none", gating=False, attenuation=False, debiasing=False
)
PROFILES: Final = {"released": RELEASED, "paper": PAPER, "default": DEFAULT, "unguided": UNGUIDED}


def profile(name: str) -> RefineConfig:
    """The settings of a named profile (docs/method.md, "Profiles").

    >>> profile("unguided").denoise
    'gaussian'

    Args:
        name: `default`, `unguided` (the default without a guide), `released` (the official code) or `paper` (the
            settings in the paper's text).

    Raises:
        ValueError: there is no such profile.
    """
    if not isinstance(name, str) or name not in PROFILES:
        raise ValueError(f"profile: name must be one of {', '.join(PROFILES)}, got {name!r}")
    return PROFILES[name]
