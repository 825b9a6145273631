"""Whether scores find wrong words: `python -m dcam_fast.evaluation.studies.wrong_words`.

The model is given captions of scenes in which one word is wrong (a size, a color or a shape), or which describe an
object that is not there. Each signal ranks all words that describe objects; its AUROC is the probability that a wrong
word ranks above a right one. Combinations of signals are fitted and chosen on the selection scenes. Everything is
reported on the held-out scenes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcam_fast import scenes
from dcam_fast.attribution import scores
from dcam_fast.attribution.answer import Answer
from dcam_fast.attribution.methods.attention_rollout import attention_to_cells
from dcam_fast.attribution.methods.presets import DIFFUSION_CAM
from dcam_fast.attribution.refinement import refined
from dcam_fast.models.adapter import Adapter, Inputs, Trajectory, Word

KINDS: Final = ("size", "color", "shape", "object")
PROBABILITY: Final = "probability"
SMALLEST: Final = 1e-12  # of a probability, in log-odds
PENALTY: Final = 1e-3  # of the squared weights of a combination


@dataclass(frozen=True)
class Caption:
    """A caption of a scene.

    Attributes:
        kind: what is wrong, one of `KINDS`; `"right"` for the right caption.
        words: of the caption.
        describes: positions of the words that describe objects.
        wrong: which of these words are wrong.
    """

    kind: str
    words: tuple[str, ...]
    describes: tuple[int, ...]
    wrong: tuple[bool, ...]


@dataclass(frozen=True)
class Measured:
    """Signals of `N` words.

    Attributes:
        signals: float64 `[N]` each; higher means that the word is more likely to be right.
        wrong: bool `[N]`.
        kinds: `[N]`, the kind of each word's caption.
        scenes: int64 `[N]`, the number of each word's scene.
    """

    signals: Mapping[str, Tensor]
    wrong: Tensor
    kinds: NDArray[np.str_]
    scenes: Tensor


def captions(rng: np.random.Generator, scene: scenes.Scene) -> Iterator[Caption]:
    """The right caption of a scene, then one with a mistake of each kind.

    >>> rng = np.random.default_rng(0)
    >>> for caption in captions(rng, scenes.sample_scene(rng, objects=1)):
    ...     print(caption.kind, *(caption.words[i] for i, bad in zip(caption.describes, caption.wrong) if bad))
    right
    size small
    color cyan
    shape cross
    object large blue square
    """
    right = [(item.size, item.color, item.shape) for item in scene.objects]
    yield _caption("right", right, scene.background)
    pools = scenes.SIZES, tuple(scenes.COLORS), scenes.SHAPES
    for part, (kind, pool) in enumerate(zip(KINDS, pools, strict=False)):
        changed = int(rng.integers(len(right)))
        words = list(right[changed])
        others = [word for word in pool if word != words[part]]
        words[part] = others[rng.integers(len(others))]
        items = [tuple(words) if index == changed else item for index, item in enumerate(right)]
        yield _caption(kind, items, scene.background, (3 * changed + part,))
    absent = [shape for shape in scenes.SHAPES if shape not in {item.shape for item in scene.objects}]
    size, color, shape = (pool[rng.integers(len(pool))] for pool in (*pools[:2], absent))
    place = int(rng.integers(len(right) + 1))
    items = [*right[:place], (size, color, shape), *right[place:]]
    yield _caption("object", items, scene.background, range(3 * place, 3 * place + 3))


def _caption(kind: str, items: Sequence[tuple[str, ...]], background: str, wrong: Sequence[int] = ()) -> Caption:
    words: list[str] = []
    describes: list[int] = []
    for index, item in enumerate(items):
        if index:
            words.append("and" if index == len(items) - 1 else ",")
        words.append("a")
        describes += range(len(words), len(words) + len(item))
        words += item
    words += ["on", "a", background, "background"]
    return Caption(kind, tuple(words), tuple(describes), tuple(i in wrong for i in range(len(describes))))


def signals(adapter: Adapter[Any], inputs: Inputs, trajectory: Trajectory, words: Sequence[Word]) -> dict[str, Tensor]:
    """Signals of `T` words, float64 `[T]` each; higher means that the word is more likely to be right.

    * `groundedness`, `image_share`, `answer_share`, `focus` (1 - spread): the scores of an explanation.
    * `image_evidence`, `place_evidence`: the change of the word's log-odds by the image, and by the place that its map
      points at.
    * `attention_focus`: the negative spatial entropy of the attention from the word to the image, averaged over layers.
    * `probability`: the word's own.
    """
    answer = Answer(adapter, inputs, trajectory)
    raw = DIFFUSION_CAM.raw_maps(answer, words)
    maps = refined(raw, DIFFUSION_CAM.profile, inputs, answer.tokens)
    layer = answer.layers(DIFFUSION_CAM.target_layers)[0]
    found = scores.dependence(answer, words, maps, layer)
    columns = {
        name: [getattr(item, name) for item in found] for name in ("groundedness", "image_share", "answer_share")
    }
    values = {name: torch.tensor(column, dtype=torch.float64) for name, column in columns.items()}
    logs = scores.log_probabilities_by_word(answer, words, maps, layer)
    odds = {name: _log_odds(value.double()) for name, value in logs.items()}
    attention = attention_to_cells(answer, words)
    return values | {
        "focus": 1 - scores.spread(maps).double(),
        "image_evidence": odds["visible"] - odds["without_image"],
        "place_evidence": odds["visible"] - odds["without_place"],
        "attention_focus": -torch.special.entr(attention / attention.sum(-1, keepdim=True)).sum(-1).mean(1).double(),
        PROBABILITY: odds["visible"],
    }
