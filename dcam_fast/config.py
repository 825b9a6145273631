"""What a refinement does, as data: `RefineConfig` and its named profiles (docs/method.md, sections 2 to 5)."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import Field, dataclass, fields, replace
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
MIN_EPSILON: Final = 1e-5  # under it float32 cannot tell a window of one color from one of two
MAX_EPSILON: Final = 1e6  # far over it float32 overflows; no variance of colors is over 0.25
MAX_WEIGHT: Final = 1000.0
_MAX_NUMBER: Final = 3e38  # of a float32, which the kernels take most settings as
_CODES: Final[dict[str, tuple[str, ...]]] = {"denoise": DENOISE, "size": SIZE_RULES}


@dataclass(frozen=True)
class RefineConfig:
    """Settings of `dcam_fast.ops.refine`; the field defaults are the released code's.

    Each of the four modules has a switch: `denoise` (AKD), `gating` (DACG), `attenuation` (CBA), `debiasing` (SICD).
    Clipping to the input's maximum and min-max normalization always run, after the third module.

    Fields are normalized: numbers of NumPy to Python's, sequences to tuples, so that a config that went through JSON
    (`RefineConfig(**json.loads(json.dumps(dataclasses.asdict(config))))`) is equal to itself.

    Raises:
        ValueError: a field of the wrong type or out of its range.
    """

    # AKD, adaptive kernel denoising. Two are no part of the method: "gaussian", plain smoothing by `smoothing_sigma`
    # cells, and "guided", smoothing along the edges of the image (`dcam_fast.ops.guided_filter`).
    denoise: Denoise = "rank"
    kernel_size: int | None = None  # odd, 3 to 11; None: from the map's own spread, the size and `step_ratio`
    step_ratio: float = 0.5  # denoising steps per generated token
    size: SizeRule = "grid"  # the size that `kernel_size=None` uses: rows of the map, or the input image's shorter side
    smoothing_sigma: float = 0.6
    guide_radius: int = 4  # cells
    guide_epsilon: float = 1e-3  # variance of colors of 0..1 that counts as an edge
    # DACG, distribution-aware confidence gating
    gating: bool = True
    gating_spread: float = 0.22
    gating_bright: float = 0.35
    gating_dim: float = 0.25
    gating_percentiles: tuple[float, float, float, float] = (90.0, 75.0, 80.0, 85.0)  # spread, bright, dim, else
    gating_sigma: float = 0.0  # cells; 0: identity, as in the released code
    # CBA, contextual background attenuation
    attenuation: bool = True
    attenuation_weights: tuple[float, float, float, float] = (0.15, 0.15, 0.20, 0.015)  # P50+, P60, mean+, max
    attenuation_floor: float = 0.5
    # SICD, single-instance causal debiasing
    debiasing: bool = True
    c_rep: float = 0.05
    c_high: float = 0.02
    alpha_max: float = 0.5
    keep_range: float = 0.9
    debiasing_in_ablations: bool = True  # the released code debiases in every mode but `baseline`

    def __post_init__(self) -> None:
        self._choose("denoise", DENOISE)
        self._choose("size", SIZE_RULES)
        if self.kernel_size is not None:
            self._set("kernel_size", _as_int(self.kernel_size, 3, 11, odd=True), "None or odd, 3 to 11")
        self._set("guide_radius", _as_int(self.guide_radius, 1, MAX_RADIUS), f"from 1 to {MAX_RADIUS} cells")
        least = math.ulp(0)
        self._set("step_ratio", _as_float(self.step_ratio, least, sys.float_info.max), "a positive number")
        self._set(
            "smoothing_sigma",
            _as_float(self.smoothing_sigma, least, MAX_SIGMA),
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
        # Written once here because the kernels take the settings as one flat list, and a call must not build it again.
        object.__setattr__(self, "_packed", self._pack())

    def _set(self, name: str, value: object, need: str) -> None:
        """The field's value in its type; None where what was given is not what it needs to be."""
        if value is None:
            raise ValueError(f"RefineConfig: {name} must be {need}, got {getattr(self, name)!r}")
        object.__setattr__(self, name, value)

    def _choose(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        chosen = str(value) if isinstance(value, str) and value in choices else None
        self._set(name, chosen, f"one of {', '.join(choices)}")

    @property
    def needs_image_side(self) -> bool:
        """Whether `refine` has to be told the size of the model's input image."""
        return self.denoise == "rank" and self.kernel_size is None and self.size == "image"

    @property
    def needs_guide(self) -> bool:
        """Whether `refine` has to be told the colors of the cells."""
        return self.denoise == "guided"

    @property
    def packed(self) -> tuple[float, ...]:
        """The settings in the order of `RefineSettings` in csrc/dcam/refine.h. Smoothing by a guide is none: it is an
        op in front of the others."""
        return self._packed  # type: ignore[attr-defined, no-any-return]

    @classmethod
    def _settings(cls) -> list[Field[Any]]:
        """The fields that the kernels read."""
        others = ("debiasing_in_ablations", "guide_radius", "guide_epsilon")
        return [field for field in fields(cls) if field.name not in others]

    def _pack(self) -> tuple[float, ...]:
        flat: list[float] = []
        for field in self._settings():
            value = getattr(self, field.name)
            if value == "guided":
                value = "none"
            if field.name in _CODES:
                flat.append(_CODES[field.name].index(value))
            else:
                flat.extend(value if isinstance(value, tuple) else (value or 0,))
        return tuple(map(float, flat))

    @classmethod
    def from_packed(cls, packed: Sequence[float]) -> RefineConfig:
        """The config that does what `packed` says.

        Raises:
            ValueError: `packed` is of no config.
        """
        if len(packed) != len(RELEASED.packed) or not all(map(math.isfinite, packed)):
            raise ValueError(f"refine: config must be RefineConfig.packed, got {list(packed)}")
        left = iter(packed)
        settings: dict[str, Any] = {}
        for field in cls._settings():
            if field.name in _CODES:
                names, code = _CODES[field.name], next(left)
                settings[field.name] = names[int(code)] if 0 <= code < len(names) else code
            elif isinstance(field.default, tuple):
                settings[field.name] = tuple(next(left) for _ in field.default)
            else:
                value = next(left)
                settings[field.name] = bool(value) if isinstance(field.default, bool) else value
        settings["kernel_size"] = int(settings["kernel_size"]) or None
        return cls(**settings)

    def ablation(self, mode: Mode) -> RefineConfig:
        """This profile with the modules of one row of the ablation table switched on, and the others off."""
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


def _as_int(value: Any, least: int, most: int, *, odd: bool = False) -> int | None:
    """An integer of the range, NumPy's too, as Python's; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        return None
    number = int(value)
    return number if least <= number <= most and not (odd and number % 2 == 0) else None


def _as_float(value: Any, least: float, most: float) -> float | None:
    """A number of the range, NumPy's too, as Python's; None for anything else, NaN among it."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    number: Any = value  # compared before it is a float: an int may be too large for one
    return float(number) if least <= number <= most else None


def _as_floats(value: object, count: int, most: float) -> tuple[float, ...] | None:
    """A list or tuple of `count` numbers from 0 to `most` as a tuple; None for anything else."""
    if not isinstance(value, (list, tuple)):
        return None
    numbers = [number for number in (_as_float(one, 0, most) for one in value) if number is not None]
    return tuple(numbers) if len(numbers) == len(value) == count else None


RELEASED: Final = RefineConfig()
PAPER: Final = RefineConfig(size="image", gating_sigma=0.3, c_rep=0.02, c_high=0.05, debiasing_in_ablations=False)
# Chosen by dcam_fast.evaluation.studies.search on scenes that no figure is reported on (docs/evaluation.md).
UNGUIDED: Final = RefineConfig(  # for maps that come without their image
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
    """The named profile: `released`, `paper`, `default` or `unguided`."""
    if not isinstance(name, str) or name not in PROFILES:
        raise ValueError(f"profile: name must be one of {', '.join(PROFILES)}, got {name!r}")
    return PROFILES[name]
