"""The model-randomization test (Adebayo et al. 2018).

A map that does not change when the weights of the model are re-initialized does not explain the model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dcam_fast.attribution.answer import Answer
from dcam_fast.attribution.methods.protocol import AttributionMethod
from dcam_fast.attribution.methods.shared import all_raw_maps
from dcam_fast.attribution.refinement import refined
from dcam_fast.evaluation.metrics import correlation
from dcam_fast.models.adapter import Adapter, Inputs, Trajectory, Word
from dcam_fast.torch_modes import own_modes


def reinitialize(module: nn.Module, generator: torch.Generator) -> None:
    """Draws every parameter from a normal distribution with its own mean and standard deviation, in place."""
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            deviation = parameter.float().std(correction=0).to(parameter)
            parameter.copy_(parameter.float().mean().to(parameter) + deviation * noise)


def randomized_from_top(adapter: Adapter[Any], seed: int = 0) -> Iterator[tuple[int, Adapter[Any]]]:
    """Re-initializes the layers of a copy of the adapter from the last one down, one more at each step.

    Yields:
        The layer, and the copy (the same object each time). The adapter itself is not changed.
    """
    copied = copy.deepcopy(adapter)
    generator = torch.Generator().manual_seed(seed)
    for index in reversed(range(adapter.num_layers)):
        reinitialize(copied.layer_module(index), generator)
        yield index, copied


@own_modes()
def randomization_test(
    adapter: Adapter[Any],
    inputs: Inputs,
    trajectory: Trajectory,
    words: Sequence[Word],
    methods: Mapping[str, AttributionMethod],
    seed: int = 0,
) -> dict[str, list[float]]:
    """Mean correlation over the words of each method's refined maps with those of the randomized models.

    Args:
        adapter: the model.
        inputs: the encoded image and prompt.
        trajectory: the generated answer, which stays the same.
        words: the words to explain.
        methods: the methods by name.
        seed: of the new weights.

    Returns:
        For each method, the correlation with 1, 2, ... re-initialized layers, counted from the last. It should fall to
        about 0.

    Raises:
        AdapterError: if the layers of the model cannot be re-initialized.
    """
    answer = trajectory.tokens[: trajectory.length]

    def maps_of(model: Adapter[Any]) -> dict[str, torch.Tensor]:
        with model.frozen():
            raw = all_raw_maps(methods, Answer(model, inputs, trajectory), words)
        return {name: refined(maps, methods[name].profile, inputs, answer) for name, maps in raw.items()}

    before = maps_of(adapter)
    curves: dict[str, list[float]] = {name: [] for name in methods}
    for _, randomized in randomized_from_top(adapter, seed):
        for name, maps in maps_of(randomized).items():
            curves[name].append(correlation(before[name], maps).mean().item())
    return curves
