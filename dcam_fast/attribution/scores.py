"""Scores of words and their maps: how focused a map is, and how much of a word's probability depends on the place that
it points at, on the image, on the prompt and on the other words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from dcam_fast.attribution.answer import Answer
from dcam_fast.attribution.by_word import mean_by_word, word_index
from dcam_fast.attribution.contrasts import ContrastedWord, log_preference
from dcam_fast.attribution.engine import CHUNK
from dcam_fast.attribution.methods.gradient_cam import build_targets
from dcam_fast.attribution.probabilities import Interventions, of_tokens, read
from dcam_fast.models.adapter import Word

TOP: Final = 5  # alternatives of a token
STATE: Final = "remask"  # the answer state that probabilities are read at
# Of scores, as an explanation states them. The replaced hidden states are those at the output of a layer.
DEFINITIONS: Final = {
    "groundedness": "(1 - p_without / p) * (1 - spread), the cells that the map points at replaced by the mean of the "
    "other cells",
    "image_share": "1 - p_without / p, at least 0, all rows of the image replaced by their mean",
    "prompt_share": "1 - p_without / p, at least 0, all rows of the prompt replaced by their mean",
    "answer_share": "1 - p_without / p, at least 0, all rows of the other words replaced by their mean",
}


@dataclass(frozen=True)
class Dependence:
    """How much of a word's probability depends on what, 0 to 1, and what else the model would have written.

    Attributes:
        groundedness: on the place that its map points at, times the focus of the map; see `groundedness`.
        image_share: on the image; see `share`.
        prompt_share: on the prompt.
        answer_share: on the other words of the answer.
        alternatives: for each token of the word, the ids and probabilities of the most confident tokens there.
    """

    groundedness: float
    image_share: float
    prompt_share: float
    answer_share: float
    alternatives: tuple[tuple[tuple[int, float], ...], ...]


@dataclass(frozen=True)
class WordReadings:
    """Log-probabilities `[T]` of words, the mean over their tokens, after each intervention of `Readings`.

    Attributes:
        visible: without an intervention.
        without_place: without the cells of the place that the word's map points at.
        without_image: without the image.
        without_prompt: without the prompt.
        without_others: without the other words of the answer.
        alternatives: for each token of each word, the ids and probabilities of the most confident tokens there.
    """

    visible: Tensor
    without_place: Tensor
    without_image: Tensor
    without_prompt: Tensor
    without_others: Tensor
    alternatives: list[tuple[tuple[int, float], ...]]


def read_words(answer: Answer, words: Sequence[Word], maps: Tensor, layer: int) -> WordReadings:
    """Reads the log-probabilities of words at the state `STATE`, with and without what they may depend on.

    Args:
        answer: that the words belong to.
        words: `T` of them, at least one.
        maps: `[T, h, w]`, their refined maps.
        layer: the layer at whose output hidden states are replaced.
    """
    targets = build_targets(answer.trajectory, answer.positions(words), STATE, answer.adapter.mask_token)
    place, others = hot_cells(maps).flatten(1)[word_index(words).to(maps.device)], other_positions(answer, words)
    cells = answer.view.cells.flatten()
    chunks = [
        (part.tokens, read(answer.adapter, answer.inputs, part, Interventions(layer, cells, *masks)))
        for part, *masks in zip(targets.chunks(CHUNK), place.split(CHUNK), others.split(CHUNK), strict=True)
    ]

    def without(name: str) -> Tensor:
        return mean_by_word(torch.cat([getattr(reading, f"without_{name}") for _, reading in chunks]), words)

    return WordReadings(
        visible=mean_by_word(torch.cat([of_tokens(reading.visible, tokens) for tokens, reading in chunks]), words),
        without_place=without("place"),
        without_image=without("image"),
        without_prompt=without("prompt"),
        without_others=without("others"),
        alternatives=[position for _, reading in chunks for position in _most_confident(reading.visible)],
    )


def dependence(answer: Answer, words: Sequence[Word], maps: Tensor, layer: int) -> list[Dependence]:
    """How much words depend on the places, the image, the prompt and the other words; arguments as in `read_words`."""
    if not words:
        return []
    found = read_words(answer, words, maps, layer)
    without = (found.without_image, found.without_prompt, found.without_others)
    shares = [
        groundedness(maps, found.visible, found.without_place),
        *(share(found.visible, values) for values in without),
    ]
    alternatives = iter(found.alternatives)
    dependences = [
        Dependence(grounded, image, prompt, others, tuple(next(alternatives) for _ in word.positions))
        for (grounded, image, prompt, others), word in zip(torch.stack(shares, 1).tolist(), words, strict=True)
    ]
    for number, word in enumerate(words):
        if isinstance(word, ContrastedWord):
            map = maps[number : number + 1]
            place = hot_cells(map).flatten()
            odds = log_preference(answer.adapter, answer.inputs, answer.trajectory, word, layer, place)
            grounded = groundedness(map, *(value[None] for value in odds))
            dependences[number] = replace(dependences[number], groundedness=float(grounded))
    return dependences


def peak(maps: Tensor) -> Tensor:
    """Share of each map `[T, h, w]` that its strongest cell holds, `[T]` in 0..1. 0 for an empty map."""
    flat = maps.flatten(1)
    return flat.amax(1) / flat.sum(1).clamp(min=1e-8)


def spread(maps: Tensor) -> Tensor:
    """Share of the cells that each map `[T, h, w]` is spread over, `[T]` in 0..1.

    It is the exponential of the map's entropy over the number of cells: 1 for an even map and `1 / N` for a single
    cell. An empty map points nowhere and has 1.
    """
    share = maps.flatten(1) / maps.flatten(1).sum(1, keepdim=True).clamp(min=1e-8)
    perplexity = torch.special.entr(share).sum(1).exp()
    return torch.where(share.sum(1) > 0, perplexity / share.shape[1], 1.0)


def hot_cells(maps: Tensor) -> Tensor:
    """The place that each map `[T, h, w]` points at, bool `[T, h, w]`.

    These are the cells of at least a tenth of the maximum and their neighbors: an edge that remained would still show
    an object's color. An empty map has no such cells.
    """
    strongest = maps.flatten(1).amax(1).view(-1, 1, 1)
    hot = maps > (0.1 * strongest).clamp(min=1e-6)
    return F.max_pool2d(hot[:, None].float(), 3, 1, 1)[:, 0] > 0


def share(visible: Tensor, without: Tensor) -> Tensor:
    """The part of each word's probability that an intervention takes away, `[T]`: `1 - p_without / p`.

    It is 0, and not below, where the word becomes more likely.

    >>> share(torch.tensor([0.8, 0.4]).log(), torch.tensor([0.2, 0.5]).log()).tolist()
    [0.75, 0.0]

    Args:
        visible: log-probability `[T]` of each word given the image, the prompt and all other words.
        without: the same after the intervention.
    """
    return 1 - (without - visible).exp().clamp(max=1)


def groundedness(maps: Tensor, visible: Tensor, without_place: Tensor) -> Tensor:
    """Whether each word depends on the place that its map points at, `[T]` in 0..1: dependence times focus.

    Dependence is the `share` of the word's probability that is lost when that place is removed and everything else
    stays. It is low for function words, and for words whose map is wrong. Focus is `1 - spread`: an abstract word may
    depend on the image but on no place in it.

    Args:
        maps: `[T, h, w]`, refined.
        visible: log-probability `[T]` of each word given the whole image and all other words.
        without_place: the same without the word's `hot_cells`.
    """
    return share(visible, without_place) * (1 - spread(maps))


def other_positions(answer: Answer, words: Sequence[Word]) -> Tensor:
    """For each token of `words`, the answer positions of the other words, bool `[tokens, L]`.

    The row that a token's logits are read from is never one of them.
    """
    positions, index = answer.positions(words), word_index(words)
    others = torch.zeros(len(positions), len(answer.trajectory.tokens), dtype=torch.bool, device=positions.device)
    others[:, : answer.trajectory.length] = True
    for row, word in enumerate(index.tolist()):
        others[row, list(words[word].positions)] = False
    read_at = (positions - answer.adapter.logit_shift).clamp(min=0)
    return others.scatter_(1, read_at[:, None], False)


def _most_confident(log_probabilities: Tensor) -> list[tuple[tuple[int, float], ...]]:
    top = log_probabilities.topk(min(TOP, log_probabilities.shape[1]))
    return [tuple(zip(*row, strict=True)) for row in zip(top.indices.tolist(), top.values.exp().tolist(), strict=True)]
