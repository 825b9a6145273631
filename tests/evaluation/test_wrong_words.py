"""The study of wrong words: its captions, its statistics, and that it runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dcam_fast import models, scenes
from dcam_fast.evaluation.studies import wrong_words
from dcam_fast.evaluation.studies.wrong_words import KINDS, Measured, auroc, choose, estimate, fit


def noise(count: int, seed: int) -> Measured:
    """Words of `count` scenes, four each. One signal follows the truth, one follows it closely, one is noise."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.arange(4 * count) % 4 == 0
    right = (~wrong).double()

    def noise_of(scale: float) -> torch.Tensor:
        return scale * torch.randn(len(right), generator=generator, dtype=torch.float64)

    signals = {"loose": right + noise_of(1.0), "close": right + noise_of(0.3), "noise": noise_of(1.0)}
    return Measured(signals, wrong, np.array(["size"] * len(wrong)), torch.arange(count).repeat_interleave(4))


def test_auroc_by_hand() -> None:
    """The positives are 3 and 1. Of the 6 pairs with the negatives 1, 2 and 3, the positive is above in two (3 and 1, 3
    and 2), equal in two (3 and 3, 1 and 1), and below in two."""
    values = torch.tensor([1.0, 3.0, 2.0, 1.0, 3.0])
    positive = torch.tensor([False, True, False, True, False])
    assert auroc(values, positive) == pytest.approx((2 + 2 / 2) / 6)
    assert auroc(torch.tensor([1.0, 3.0, 2.0, 4.0]), torch.tensor([False, True, False, True])) == 1
    assert auroc(torch.tensor([1.0, 2.0, 2.0]), torch.tensor([False, True, False])) == 0.75
    assert auroc(torch.zeros(5), positive) == 0.5


def test_auroc_counts_weights_as_copies() -> None:
    values = torch.tensor([0.2, 0.5, 0.5, 0.9])
    positive = torch.tensor([False, True, False, True])
    weights = torch.tensor([2, 1, 3, 0])
    copies = torch.repeat_interleave(weights)
    assert auroc(values, positive, weights) == pytest.approx(auroc(values[copies], positive[copies]))
    assert np.isnan(auroc(values, torch.ones(4, dtype=torch.bool)))


@pytest.mark.parametrize("kind", KINDS)
def test_captions_have_one_mistake(kind: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        scene = scenes.sample_scene(rng)
        caption = wrong_words.caption_with_mistake(rng, scene, kind)
        right = list(scenes.caption(scene).answer)
        described = [caption.words[position] for position in caption.describes]
        mistakes = [word for word, wrong in zip(described, caption.wrong, strict=True) if wrong]
        if kind == "object":
            assert len(mistakes) == 3
            assert mistakes[2] not in {item.shape for item in scene.objects}
            assert len(described) == 3 * len(scene.objects) + 3
            assert len(caption.words) == len(right) + 5
            continue
        changed = [index for index, (a, b) in enumerate(zip(caption.words, right, strict=True)) if a != b]
        assert [caption.words[index] for index in changed] == mistakes
        assert len(mistakes) == 1
        assert changed == [p for p, wrong in zip(caption.describes, caption.wrong, strict=True) if wrong]


def test_a_combination_ranks_better_than_its_signals() -> None:
    fitting, held_out = noise(200, 0), noise(200, 1)
    combined = auroc(-fit(fitting, ["loose", "close", "noise"]).of(held_out), held_out.wrong)
    assert combined > auroc(-held_out.signals["loose"], held_out.wrong)
    assert combined > 0.97


def test_the_best_signals_are_chosen_first() -> None:
    assert choose(noise(200, 0), noise(200, 1), ["noise", "loose", "close"])[0] == "close"


def test_intervals_are_over_scenes() -> None:
    """With every word of a scene copied, there are no more scenes, and the interval is as wide as before."""
    measured = noise(30, 2)
    twice = torch.arange(len(measured.wrong)).repeat_interleave(2)
    copied = Measured(
        {name: values[twice] for name, values in measured.signals.items()},
        measured.wrong[twice],
        measured.kinds[twice],
        measured.scenes[twice],
    )
    one, two = (
        estimate(item.signals["loose"], item, torch.ones_like(item.wrong), resamples=50) for item in (measured, copied)
    )
    assert one.low < one.value < one.high
    assert (one.value, one.low, one.high) == pytest.approx((two.value, two.low, two.high))
    assert two.count == 2 * one.count


def test_the_study_runs() -> None:
    result = wrong_words.study(models.load("tiny"), (0, 4), (7, 4))
    assert result["wrong"] == 6
    for row in ("groundedness", "image_share", "attention", wrong_words.PROBABILITY, wrong_words.COMBINED):
        assert set(result["table"][row]) == {"all", *KINDS}
        assert 0 <= result["table"][row]["all"]["value"] <= 1
    assert wrong_words.PROBABILITY not in result["combinations"][wrong_words.COMBINED]
