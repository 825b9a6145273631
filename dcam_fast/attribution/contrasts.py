"""Contrasts: a word of the answer compared with another word in its place (`dcam_fast.Contrast`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dcam_fast.attribution.answer_states import State, canvases
from dcam_fast.attribution.probabilities import Interventions, of_tokens, read
from dcam_fast.attribution.target_batch import TargetBatch
from dcam_fast.models.adapter import Adapter, AdapterError, Inputs, Trajectory, Word
from dcam_fast.words import fold


@dataclass(frozen=True, kw_only=True)
class ContrastedWord(Word):
    """A word of the answer and what it is compared with.

    Attributes:
        instead: the other word or phrase.
        instead_tokens: its token ids.
    """

    instead: str
    instead_tokens: tuple[int, ...]


def encode_other(adapter: Adapter[Any], text: str) -> tuple[int, ...]:
    """Token ids of words that need not be in the answer.

    Raises:
        AdapterError: for a family that cannot encode text.
        ValueError: for words that the model cannot write.
    """
    tokens = adapter.encode_answer(text)
    spelled = adapter.decode(torch.tensor(tokens, dtype=torch.int64))
    # decoders change white space, and tokenizers may ignore case
    if fold("".join(spelled.split())) != fold("".join(text.split())) or adapter.mask_token in tokens:
        raise ValueError(f"Contrast: instead must be words that {adapter.name} can write, got {text.strip()!r}")
    return tuple(tokens)


def encode_instead(
    adapter: Adapter[Any], trajectory: Trajectory, positions: Sequence[int], instead: str
) -> tuple[int, ...]:
    """Token ids of `instead` as they would stand at `positions`: after a space if the word there begins with one.

    Raises:
        AdapterError, ValueError: as `encode_other`.
    """
    own = trajectory.tokens[list(positions)]
    word = adapter.decode(own).strip()
    # Decoders may drop a leading space and tokenizers may add one, so the word itself says which text gives its tokens.
    for space in ("", " "):
        if adapter.encode_answer(space + word) == own.tolist():
            return encode_other(adapter, space + instead)
    before = adapter.decode(trajectory.tokens[: min(positions)])
    text = adapter.decode(trajectory.tokens[: max(positions) + 1]).removeprefix(before)
    return encode_other(adapter, " " * text[:1].isspace() + instead)


def contrast_targets(trajectory: Trajectory, word: ContrastedWord, state: State, mask_token: int) -> TargetBatch:
    """The tokens of a word with weight 1 and those of `instead` with weight -1.

    They belong to one map if they are equally many, and so have the same canvas. Otherwise those of `instead` are the
    second map.

    Args:
        trajectory: the answer.
        word: a word of it.
        state: see `canvases`. The state `"committed"` is that of the first token of the place that was written.
        mask_token: the model's, or `NO_MASK`.

    Raises:
        AdapterError: if `instead` has no room in the answer.
    """
    positions = torch.tensor(word.positions, device=trajectory.tokens.device)
    instead = torch.tensor(word.instead_tokens, device=positions.device)
    number = torch.tensor([0] * len(positions) + [len(positions) != len(instead)] * len(instead))
    first = positions[trajectory.known_steps(state)[positions].argmin()] if state == "committed" else positions[0]
    canvas = canvases(trajectory, first[None], state, mask_token)[0]
    blank = canvases(trajectory, first[None], "first", mask_token)[0]
    own = canvas.index_copy(0, positions, blank[positions])
    others, other_positions = own, positions
    if len(positions) != len(instead):
        others = _with_room(trajectory, word, own, blank)
        other_positions = positions[0] + torch.arange(len(instead), device=positions.device)
    places = torch.cat((positions, other_positions))
    return TargetBatch(
        canvases=torch.cat((own.expand(len(positions), -1), others.expand(len(instead), -1))),
        positions=places,
        distractors=places,  # no objective of a contrast reads them
        tokens=torch.cat((trajectory.tokens[positions], instead)),
        maps=number,
        weights=torch.cat((torch.ones(len(positions)), -torch.ones(len(instead)))).to(places.device),
    )


def _with_room(trajectory: Trajectory, word: ContrastedWord, canvas: Tensor, blank: Tensor) -> Tensor:
    """A canvas whose place of `word` has as many masks as `instead` has tokens."""
    length, start, count = len(trajectory.tokens), word.positions[0], len(word.instead_tokens)
    end = start + len(word.positions)
    if word.positions != tuple(range(start, end)):
        raise AdapterError(
            f"Contrast: instead must be {len(word.positions)} tokens, as many as {word.text!r}, whose tokens are not "
            f"next to each other, got {count}"
        )
    most = length - trajectory.length + len(word.positions)
    if count > most:
        raise AdapterError(
            f"Contrast: instead must be at most {most} tokens, which the answer has room for in place of "
            f"{word.text!r}, got {count}"
        )
    free = blank[length - max(len(word.positions) - count, 0) : length]
    moved = torch.cat((canvas[:start], blank[start : start + count], canvas[end:length], free))[:length]
    # what a family keeps after the tokens belongs to their old positions
    return torch.cat((moved, canvas.new_zeros(len(canvas) - length)))


def log_preference(
    adapter: Adapter[Any],
    inputs: Inputs,
    trajectory: Trajectory,
    word: ContrastedWord,
    layer: int,
    place: Tensor,
) -> tuple[Tensor, Tensor]:
    """Logarithm of `p(word) / (p(word) + p(instead))`, and the same without some cells, at the state `"remask"`.

    Args:
        adapter: of the model.
        inputs: image and prompt, encoded.
        trajectory: the answer.
        word: a word of it.
        layer: the layer at whose output the cells are replaced.
        place: bool `[N]`, the cells to replace; see `Interventions`.
    """
    targets = contrast_targets(trajectory, word, "remask", adapter.mask_token)
    assert targets.weights is not None
    interventions = Interventions(
        layer=layer,
        cells=inputs.views[0].cells.flatten(),
        place=place.expand(len(targets), -1),
        others=place.new_zeros(len(targets), len(trajectory.tokens)),
    )
    readings = read(adapter, inputs, targets, interventions)
    visible = of_tokens(readings.visible, targets.tokens)
    return (
        F.logsigmoid((targets.weights * visible).sum()),
        F.logsigmoid((targets.weights * readings.without_place).sum()),
    )
