"""`Generation`: how an answer is generated."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from dcam_fast.checks import check_count, check_number


@dataclass(frozen=True)
class Generation:
    """How an answer is generated. None leaves a choice to the model.

    Attributes:
        steps: denoising steps.
        block_length: tokens of the answer that are denoised before the next ones.
        temperature: of the sampling; 0 takes the most likely tokens. None is 0 for all families but DiffusionGemma,
            which has a schedule of temperatures.
        seed: of whatever is drawn: noise and samples. The same seed gives the same answer.

    Raises:
        TypeError: for a value of the wrong type.
        ValueError: for a value out of range.

    Example:
        >>> Generation(steps=8, temperature=0.2)
        Generation(steps=8, block_length=None, temperature=0.2, seed=0)
    """

    steps: int | None = None
    block_length: int | None = None
    temperature: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "block_length"):
            object.__setattr__(self, name, check_count("Generation", name, getattr(self, name)))
        if self.temperature is not None:
            need = "a number from 0 or None"
            temperature = check_number("Generation", "temperature", self.temperature, need, minimum=0)
            object.__setattr__(self, "temperature", temperature)
        if isinstance(self.seed, bool) or not isinstance(self.seed, Integral):
            raise TypeError(f"Generation: seed must be a whole number, got {self.seed!r}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"Generation: seed must be from 0 to 2**63 - 1, got {self.seed!r}")
        object.__setattr__(self, "seed", int(self.seed))
