"""`check_adapter`: conformance checks of an adapter, for the author of a model family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcam_fast.models.adapter import Adapter
from dcam_fast.testing.cases import Case, state_of
from dcam_fast.testing.generation import (
    check_determinism,
    check_given,
    check_replay,
    check_stepping,
    check_trajectory,
    check_words,
)
from dcam_fast.testing.passes import (
    check_batches,
    check_gradients,
    check_target_layers,
    check_two_streams,
    check_unchanged_model,
)
from dcam_fast.testing.views import check_painted_cells, check_views
from dcam_fast.torch_modes import own_modes

__all__ = ["ConformanceError", "check_adapter"]

CHECKS: tuple[Callable[[Case], Iterator[str]], ...] = (
    check_views,
    check_painted_cells,
    check_trajectory,
    check_determinism,
    check_replay,
    check_stepping,
    check_given,
    check_words,
    check_unchanged_model,
    check_target_layers,
    check_gradients,
    check_two_streams,
    check_batches,
)


class ConformanceError(AssertionError):
    """An adapter breaks the interface.

    Attributes:
        findings: one sentence for each fault.
    """

    def __init__(self, name: str, findings: list[str]) -> None:
        self.findings = tuple(findings)
        listed = "\n".join(f"  {number}. {finding}" for number, finding in enumerate(findings, 1))
        super().__init__(f"{name}: {len(findings)} promises of the adapter interface are broken\n{listed}")


@own_modes()
def check_adapter(adapter: Adapter[Any], image: NDArray[np.uint8] | None = None, prompt: str | None = None) -> None:
    """Checks everything that the adapter interface promises and a caller can observe.

    It generates one answer and runs a few passes. A small model with random weights is enough.

    Args:
        adapter: the adapter to check.
        image: uint8 `[H, W, 3]`, not square, so that swapped rows and columns are found (None: noise, 240 x 320).
        prompt: the question (None: the adapter's default).

    Raises:
        ConformanceError: if there is a fault; it lists all of them.

    Example:
        >>> from dcam_fast.models import load
        >>> check_adapter(load("tiny"))
    """
    if image is None:
        image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    question = adapter.default_prompt if prompt is None else prompt
    before = state_of(adapter)
    try:
        inputs = adapter.encode(image, question)
        trajectory = adapter.generate(inputs)
    except Exception as error:  # any error of the author's code is a finding
        raise ConformanceError(adapter.name, [f"encode and generate must work, got {error!r}"]) from error
    case = Case(adapter, image, inputs, trajectory, (before, state_of(adapter)))
    findings: list[str] = []
    with adapter.frozen():
        for check in CHECKS:
            try:
                findings += check(case)
            except Exception as error:  # the other checks still run
                name = check.__name__.removeprefix("check_").replace("_", " ")
                findings.append(f"{name}: must not fail, got {error!r}")
    if findings:
        raise ConformanceError(adapter.name, findings)
