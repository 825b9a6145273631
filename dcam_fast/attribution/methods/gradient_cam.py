"""`GradientCAM`: Diffusion-CAM (arXiv 2604.11005) and the other methods that pool activations and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, get_args

import torch
from torch import Tensor

from dcam_fast import ops
from dcam_fast.attribution.answer import Answer
from dcam_fast.attribution.answer_states import State, canvases, checked_state
from dcam_fast.attribution.by_word import mean_by_word, word_index
from dcam_fast.attribution.contrasts import ContrastedWord, contrast_targets
from dcam_fast.attribution.engine import capture, differentiate
from dcam_fast.attribution.methods.protocol import Claim
from dcam_fast.attribution.objectives import Objective, ObjectiveName
from dcam_fast.attribution.target_batch import TargetBatch
from dcam_fast.checks import check_count, check_switch
from dcam_fast.config import DEFAULT, RefineConfig
from dcam_fast.models.adapter import NO_MASK, AdapterError, Trajectory, Word
from dcam_fast.models.given import integers

OUTPUTS: Final[dict[ObjectiveName, str]] = {
    "logprob": "the log-probability",
    "logit": "the logit",
    "contrast": "the logit, less the same logit at another position,",
    "contrast_sum": "the sum of all logits at the position, less their sum at another position,",
}


@dataclass(frozen=True)
class GradientCAM:
    """Maps from the activations and gradients at the output of the target layers.

    Attributes:
        objective: the scalar that is differentiated, a name or a callable (`dcam_fast.attribution.objectives`).
        state: the answer state it is evaluated at (`dcam_fast.attribution.answer_states`).
        aggregation: how activations and gradients become one number for each cell (`dcam_fast.ops.pool`).
        target_layers: the layers whose maps are averaged, ascending. None: the adapter's default layers.
        depth: how many layers above the highest target layer are differentiated, which is an approximation. None: all
            layers, which is exact.
        shared: whether a word of several tokens, or a phrase, costs a single backward pass. All its tokens are then
            masked together and the sum of their objectives is differentiated, which is an approximation. False: the
            mean of the tokens' maps, which is exact.
        profile: how the raw map is refined unless the caller chooses another profile.

    Raises:
        ValueError, TypeError: for a value that no model can be explained with. Layers and steps that one model does not
            have are found when it is explained.

    Example:
        >>> from dcam_fast import Explainer, GradientCAM, sample_image
        >>> method = GradientCAM(objective="logit", aggregation="grad_cam")
        >>> explanation = Explainer.from_pretrained("tiny").explain(sample_image(), method=method)
        >>> explanation.provenance["aggregation"]
        'grad_cam'
    """

    objective: Objective = "logprob"
    state: State = "remask"
    aggregation: str = "layer_cam"
    target_layers: tuple[int, ...] | None = None
    depth: int | None = None
    shared: bool = False
    profile: RefineConfig = DEFAULT

    def __post_init__(self) -> None:
        if not callable(self.objective) and self.objective not in get_args(ObjectiveName):
            need = f"one of {', '.join(get_args(ObjectiveName))} or a callable"
            raise ValueError(f"GradientCAM: objective must be {need}, got {self.objective!r}")
        object.__setattr__(self, "state", checked_state("GradientCAM", self.state))
        if self.aggregation not in ops.AGGREGATIONS:
            need = f"one of {', '.join(ops.AGGREGATIONS)}"
            raise ValueError(f"GradientCAM: aggregation must be {need}, got {self.aggregation!r}")
        if self.target_layers is not None:
            object.__setattr__(self, "target_layers", integers("GradientCAM", "target_layers", self.target_layers))
        object.__setattr__(self, "depth", check_count("GradientCAM", "depth", self.depth))
        check_switch("GradientCAM", "shared", self.shared)
        if not isinstance(self.profile, RefineConfig):
            need = "a RefineConfig (dcam_fast.profile returns the named ones)"
            raise TypeError(f"GradientCAM: profile must be {need}, got {self.profile!r}")

    @property
    def claim(self) -> Claim:
        """See `AttributionMethod.claim`."""
        output = "a function of the logits" if callable(self.objective) else OUTPUTS[self.objective]
        score = f"the gradient of that output there, with the activation, aggregated by {self.aggregation}"
        depth = "" if self.depth is None else f", of {self.depth} layers above the target layers only"
        return Claim(f"{output} of each token", score + depth, self.state)

    def raw_maps(self, answer: Answer, words: Sequence[Word]) -> Tensor:
        """See `AttributionMethod.raw_maps`."""
        return maps_of_words(answer, words, (self,))[0]


def build_targets(trajectory: Trajectory, positions: Tensor, state: State, mask_token: int) -> TargetBatch:
    """Targets at `positions`, int64 `[T]`. The distractor of each is the first other position of the canvas."""
    distractors = torch.where(positions == 0, min(1, len(trajectory.tokens) - 1), 0)
    return TargetBatch(
        canvases=canvases(trajectory, positions, state, mask_token),
        positions=positions,
        distractors=distractors,
        tokens=trajectory.tokens[positions],
    )


def maps_of_targets(answer: Answer, targets: TargetBatch, methods: Sequence[GradientCAM]) -> list[Tensor]:
    """Raw maps float32 `[T, h, w]` in 0..1 of some targets by each of `methods`.

    Args:
        answer: the answer that `targets` belong to.
        targets: `T` of them, or of `T` maps where `targets.maps` assigns them.
        methods: they differ only in aggregation and profile, and so share their passes.
    """
    cells, layers = answer.view.cells.flatten(), answer.layers(methods[0].target_layers)
    count = len(targets) if targets.maps is None else len(targets.maps.unique())
    maps = [answer.zeros(count).flatten(1) for _ in methods]

    def pool(_layer: int, numbers: Tensor, activations: Tensor, gradients: Tensor) -> None:
        for rows, method in zip(maps, methods, strict=True):
            rows[numbers] += ops.pool(activations, gradients, cells, method.aggregation)

    differentiate(answer.adapter, answer.inputs, targets, layers, methods[0].objective, pool, methods[0].depth)
    if len(layers) > 1:  # the mean over layers that `ops.pool` takes when it has all of them at once
        maps = [rows - rows.amin(1, keepdim=True) for rows in maps]
        maps = [rows / (rows.amax(1, keepdim=True) + 1e-8 * len(layers)) for rows in maps]
    return [rows.view(-1, *answer.view.cells.shape) for rows in maps]


def maps_of_words(answer: Answer, words: Sequence[Word], methods: Sequence[GradientCAM]) -> list[Tensor]:
    """Raw maps float32 `[len(words), h, w]` by each of `methods`, which share their passes as in `maps_of_targets`."""
    contrasted = {index: word for index, word in enumerate(words) if isinstance(word, ContrastedWord)}
    if contrasted:
        plain = [index for index in range(len(words)) if index not in contrasted]
        maps = [answer.zeros(len(words)) for _ in methods]
        for rows, found in zip(maps, maps_of_words(answer, [words[index] for index in plain], methods), strict=True):
            rows[plain] = found
        for index, word in contrasted.items():
            for rows, map in zip(maps, _maps_of_contrast(answer, word, methods), strict=True):
                rows[index] = map
        return maps
    adapter = answer.adapter
    targets = build_targets(answer.trajectory, answer.positions(words), methods[0].state, adapter.mask_token)
    if methods[0].shared:
        phrases = _as_phrases(targets, word_index(words).to(adapter.device), adapter.mask_token)
        return maps_of_targets(answer, phrases, methods)
    return [mean_by_word(per_token, words) for per_token in maps_of_targets(answer, targets, methods)]


def check_contrastable(objective: Objective) -> None:
    """Raises ValueError for an objective that does not tell a token from another one in its place."""
    if objective not in ("logprob", "logit"):
        raise ValueError(f"GradientCAM: objective must be 'logprob' or 'logit' for a Contrast, got {objective!r}")


def _maps_of_contrast(answer: Answer, word: ContrastedWord, methods: Sequence[GradientCAM]) -> list[Tensor]:
    """Raw maps float32 `[h, w]` of one contrast by each of `methods`, from its word's activations."""
    adapter, method, cells = answer.adapter, methods[0], answer.view.cells
    check_contrastable(method.objective)
    targets = contrast_targets(answer.trajectory, word, method.state, adapter.mask_token)
    layers = answer.layers(method.target_layers)
    captured = capture(adapter, answer.inputs, targets, layers, method.objective, method.depth)
    activations = [layer.activations[:1] for layer in captured]
    # the gradient of a difference is the difference of the gradients, whether or not both have the same canvas
    gradients = [layer.gradients.sum(0, keepdim=True) for layer in captured]
    pooled = (ops.pool(activations, gradients, cells.flatten(), method.aggregation) for method in methods)
    return [maps.view(cells.shape) for maps in pooled]


def _as_phrases(targets: TargetBatch, indices: Tensor, mask_token: int) -> TargetBatch:
    """One map for the targets of each word, `indices` int64 `[T]`, at a canvas that masks all tokens of the word."""
    if mask_token == NO_MASK:
        raise AdapterError("GradientCAM: shared must be False for a model without a mask token, got True")
    together = indices[:, None] == indices
    masked = (together.float() @ (targets.canvases == mask_token).float()) > 0
    return replace(targets, canvases=torch.where(masked, mask_token, targets.canvases), maps=indices)
