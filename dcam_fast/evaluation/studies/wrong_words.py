"""Whether scores find wrong words: `python -m dcam_fast.evaluation.studies.wrong_words`.

The model is given captions of scenes in which one word is wrong (a size, a color or a shape), or which describe an
object that is not there. Each signal ranks all words that describe objects; its AUROC is the probability that a wrong
word ranks above a right one. Combinations of signals are fitted and chosen on the selection scenes. Everything is
reported on the held-out scenes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import torch.nn.functional as F
import typer
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from dcam_fast import models, scenes
from dcam_fast._version import __version__
from dcam_fast.attribution import scores
from dcam_fast.attribution.answer import Answer
from dcam_fast.attribution.answer_states import canvases
from dcam_fast.attribution.methods.attention_rollout import AttentionRecorder
from dcam_fast.attribution.methods.presets import DIFFUSION_CAM
from dcam_fast.attribution.refinement import refined
from dcam_fast.attribution.resources import computing
from dcam_fast.evaluation.aggregate import LEVEL, RESAMPLES, Estimate
from dcam_fast.evaluation.datasets.synthetic import SELECTION_SEED, TEST_SEED
from dcam_fast.folders import write_json
from dcam_fast.models.adapter import Adapter, Word

KINDS: Final = ("size", "color", "shape", "object")
PROBABILITY: Final = "probability"
SMALLEST: Final = 1e-12  # of a probability, in log-odds
PENALTY: Final = 1e-3  # of the squared weights of a combination
GAIN: Final = 0.001  # of AUROC that a further signal must bring
COMBINED: Final = "combination without the probability"
COMBINED_WITH_PROBABILITY: Final = "combination with the probability"


@dataclass(frozen=True)
class Caption:
    """A caption of a scene.

    Attributes:
        kind: what is wrong, one of `KINDS`.
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


def caption_with_mistake(rng: np.random.Generator, scene: scenes.Scene, kind: str) -> Caption:
    """A caption of a scene with one mistake.

    >>> rng = np.random.default_rng(0)
    >>> scene = scenes.sample_scene(rng, objects=1)
    >>> print(*caption_with_mistake(rng, scene, "color").words[1:4])
    large pink triangle

    Args:
        rng: the random generator, which is advanced.
        scene: the scene.
        kind: one of `KINDS`: what is wrong of one object, or `"object"` for an object that is not there.
    """
    items = [(item.size, item.color, item.shape) for item in scene.objects]
    pools = (scenes.SIZES, tuple(scenes.COLORS), scenes.SHAPES)
    if kind == "object":
        absent = tuple(shape for shape in scenes.SHAPES if shape not in {item.shape for item in scene.objects})
        size, color, shape = (pool[rng.integers(len(pool))] for pool in (*pools[:2], absent))
        place = int(rng.integers(len(items) + 1))
        items.insert(place, (size, color, shape))
        return _caption(kind, items, scene.background, range(3 * place, 3 * place + 3))
    place, part = int(rng.integers(len(items))), KINDS.index(kind)
    words = list(items[place])
    others = [word for word in pools[part] if word != words[part]]
    words[part] = others[rng.integers(len(others))]
    items[place] = (words[0], words[1], words[2])
    return _caption(kind, items, scene.background, (3 * place + part,))


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


@torch.no_grad()
def attention_entropy(answer: Answer, words: Sequence[Word]) -> Tensor:
    """Entropy of the attention from the first token of each word to the cells, float64 `[T]`, averaged over layers.

    It is the kind of signal that VISAGE (arXiv 2603.25711) uses: attention to no place in particular.
    """
    adapter, cells, length = answer.adapter, answer.view.cells.flatten(), len(answer.trajectory.tokens)
    positions = torch.tensor([word.positions[0] for word in words], device=adapter.device)
    hidden = adapter.embed(answer.inputs, canvases(answer.trajectory, positions, "remask", adapter.mask_token))
    entropies = []
    for index in range(adapter.num_layers):
        with AttentionRecorder() as recorder:
            hidden = adapter.layer(index, hidden, answer.inputs)
        weights = recorder.weights[-1]  # of the stream that holds the answer, which ends the sequence
        rows = weights.shape[1] - length + positions - adapter.logit_shift
        seen = weights[torch.arange(len(rows)), rows][:, cells].double()
        entropies.append(torch.special.entr(seen / seen.sum(1, keepdim=True)).sum(1))
    return torch.stack(entropies).mean(0)


def signals(answer: Answer, words: Sequence[Word]) -> dict[str, Tensor]:
    """Signals of `T` words, float64 `[T]` each; higher means that the word is more likely to be right.

    * `groundedness`, `image_share`, `prompt_share`, `answer_share`, `focus` (1 - spread): scores of an explanation.
    * `image_evidence`, `place_evidence`: how much the image, or the place that the word's map points at, raises the
      log-odds of the word.
    * `attention`: the negative entropy of the word's attention over the image.
    * `probability`: the word's own, as log-odds.
    """
    raw = DIFFUSION_CAM.raw_maps(answer, words)
    maps = refined(raw, DIFFUSION_CAM.profile, answer.inputs, answer.tokens)
    found = scores.read_words(answer, words, maps, answer.layers(DIFFUSION_CAM.target_layers)[0])
    visible = _log_odds(found.visible)
    columns = {
        "groundedness": scores.groundedness(maps, found.visible, found.without_place),
        "image_share": scores.share(found.visible, found.without_image),
        "prompt_share": scores.share(found.visible, found.without_prompt),
        "answer_share": scores.share(found.visible, found.without_others),
        "focus": 1 - scores.spread(maps),
        "image_evidence": visible - _log_odds(found.without_image),
        "place_evidence": visible - _log_odds(found.without_place),
        "attention": -attention_entropy(answer, words),
        PROBABILITY: visible,
    }
    return {name: column.double() for name, column in columns.items()}


def _log_odds(log_probabilities: Tensor) -> Tensor:
    p = log_probabilities.double().exp().clamp(SMALLEST, 1 - SMALLEST)
    return p.log() - (1 - p).log()


def measure(adapter: Adapter[Any], seed: int, count: int) -> Measured:
    """The signals of the words that describe objects, in one caption of each of `count` scenes. The kinds of mistakes
    take turns."""
    rng = np.random.default_rng(seed)
    parts: list[dict[str, Tensor]] = []
    made: list[Caption] = []
    for number in track(range(count), f"scenes from seed {seed}"):
        scene = scenes.sample_scene(rng)
        made.append(caption_with_mistake(rng, scene, KINDS[number % len(KINDS)]))
        with computing(adapter):
            inputs = adapter.encode(scene.image, scenes.CAPTION_PROMPT)
            trajectory = adapter.given(adapter.encode_answer(" ".join(made[-1].words)))
            words = adapter.words(trajectory)
            parts.append(signals(Answer(adapter, inputs, trajectory), [words[index] for index in made[-1].describes]))
    counts = torch.tensor([len(caption.describes) for caption in made])
    return Measured(
        signals={name: torch.cat([part[name] for part in parts]) for name in parts[0]},
        wrong=torch.tensor([wrong for caption in made for wrong in caption.wrong]),
        kinds=np.repeat([caption.kind for caption in made], counts.numpy()),
        scenes=torch.arange(count).repeat_interleave(counts),
    )


def auroc(values: Tensor, positive: Tensor, weights: Tensor | None = None) -> float:
    """Area under the ROC curve: the probability that a positive ranks above a negative, where a tie counts half.

    >>> auroc(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([False, True, False, True]))
    0.875

    Args:
        values: `[N]`.
        positive: bool `[N]`.
        weights: how often each value counts, `[N]` from 0. None: once.

    Returns:
        0 to 1; NaN without a positive or a negative.
    """
    levels, level = values.unique(return_inverse=True)
    counts = torch.ones_like(values, dtype=torch.float64) if weights is None else weights.double()
    of_positives, of_negatives = (
        torch.zeros(len(levels), dtype=torch.float64).index_add(0, level, torch.where(chosen, counts, 0.0))
        for chosen in (positive, ~positive)
    )
    below = of_negatives.cumsum(0) - of_negatives / 2
    return float((of_positives * below).sum() / (of_positives.sum() * of_negatives.sum()))


def estimate(values: Tensor, measured: Measured, chosen: Tensor, resamples: int = RESAMPLES) -> Estimate:
    """The AUROC of `values`, higher for right words, over the `chosen` words, with a bootstrap interval over scenes."""
    wrong, numbers, ranked = measured.wrong[chosen], measured.scenes[chosen], -values[chosen]
    count = int(measured.scenes.max()) + 1
    weights = np.random.default_rng(0).multinomial(count, [1 / count] * count, resamples)
    drawn = [auroc(ranked, wrong, torch.from_numpy(row)[numbers]) for row in weights]
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(auroc(ranked, wrong), float(low), float(high), int(chosen.sum()))


@dataclass(frozen=True)
class Combination:
    """A logistic regression on standardized signals.

    Attributes:
        names: of its signals.
        mean: of each.
        deviation: standard deviation of each.
        weights: of each standardized signal.
    """

    names: tuple[str, ...]
    mean: Tensor
    deviation: Tensor
    weights: Tensor

    def of(self, measured: Measured) -> Tensor:
        """The log-odds, up to a constant, that each word is right, `[N]`."""
        return ((_columns(measured, self.names) - self.mean) / self.deviation) @ self.weights


def fit(measured: Measured, names: Sequence[str]) -> Combination:
    """Fits a combination of signals to all words by L-BFGS. The result does not depend on chance."""
    columns = _columns(measured, names)
    mean, deviation = columns.mean(0), columns.std(0).clamp(min=1e-6)
    standardized, right = (columns - mean) / deviation, (~measured.wrong).double()
    weights = torch.zeros(len(names) + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = standardized @ weights[:-1] + weights[-1]
        value = F.binary_cross_entropy_with_logits(logits, right) + PENALTY * weights[:-1].square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return Combination(tuple(names), mean, deviation, weights.detach()[:-1])


def choose(fitting: Measured, choosing: Measured, names: Sequence[str]) -> tuple[str, ...]:
    """Signals whose combination, fitted on one part of the selection scenes, ranks best on another part.

    Signals are added one at a time, as long as one raises the AUROC by more than `GAIN`.
    """
    chosen: tuple[str, ...] = ()
    best = 0.5
    while left := [name for name in names if name not in chosen]:
        tried = {name: auroc(-fit(fitting, (*chosen, name)).of(choosing), choosing.wrong) for name in left}
        name = max(tried, key=tried.__getitem__)
        if tried[name] < best + GAIN:
            break
        chosen, best = (*chosen, name), tried[name]
    return chosen


def _columns(measured: Measured, names: Sequence[str]) -> Tensor:
    return torch.stack([measured.signals[name] for name in names], 1)


def study(adapter: Adapter[Any], selection: tuple[int, int], test: tuple[int, int]) -> dict[str, Any]:
    """Measures both sets of scenes, each a seed and a count, fits the combinations and returns the result as JSON
    values."""
    seed, count = selection
    fitting, choosing = measure(adapter, seed, count), measure(adapter, seed + 1, count)
    held_out = measure(adapter, *test)
    names = [name for name in held_out.signals if name != PROBABILITY]
    rows = dict(held_out.signals)
    combinations = {}
    for title, allowed in ((COMBINED, names), (COMBINED_WITH_PROBABILITY, [*names, PROBABILITY])):
        chosen = choose(fitting, choosing, allowed)
        combination = fit(fitting, chosen)
        rows[title] = combination.of(held_out)
        combinations[title] = dict(zip(chosen, combination.weights.tolist(), strict=True))
    groups = {"all": torch.ones_like(held_out.wrong)}
    for kind in KINDS:
        groups[kind] = torch.from_numpy(held_out.kinds == kind)
    return {
        "words": len(held_out.wrong),
        "wrong": int(held_out.wrong.sum()),
        "combinations": combinations,
        "table": {
            row: {group: asdict(estimate(values, held_out, members)) for group, members in groups.items()}
            for row, values in rows.items()
        },
    }


def main(
    out: Annotated[Path | None, typer.Option(help="Result file, JSON.")] = None,
    count: Annotated[int, typer.Option(min=2, help="Held-out scenes.")] = 200,
    selected: Annotated[int, typer.Option(min=2, help="Selection scenes to fit on, and to choose signals on.")] = 100,
    attention: Annotated[str, typer.Option(help="Attention topology of the embedded model.")] = "prefix",
) -> None:
    """Measure which signals find wrong words in captions."""
    adapter = models.load("tiny", attention=attention)
    result = study(adapter, (SELECTION_SEED, selected), (TEST_SEED, count))
    for row, cells in result["table"].items():
        typer.echo(f"{row:40}" + "  ".join(f"{group} {cell['value']:.3f}" for group, cell in cells.items()))
    if out:
        head = {
            "date": date.today().isoformat(),
            "dcam_fast": __version__,
            "torch": torch.__version__,
            "model": adapter.name,
            "attention": attention,
            "scenes": count,
            "seed": TEST_SEED,
            "selection_scenes": selected,
            "selection_seeds": [SELECTION_SEED, SELECTION_SEED + 1],
        }
        write_json(out, head | result)


if __name__ == "__main__":
    typer.run(main)
