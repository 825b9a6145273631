from __future__ import annotations

import numpy as np
import pytest

from dcam_fast.evaluation.aggregate import Aggregate, Estimate


def test_mean_and_median_by_hand() -> None:
    gathered = Aggregate()
    gathered.update({"pointing": [1.0, 0.0], "contrast": [1.0, 100.0], "inter_word_correlation": [0.5]})
    gathered.update({"pointing": [1.0], "contrast": [2.0], "inter_word_correlation": []})
    table = gathered.compute(resamples=500)
    assert table["pointing"].value == pytest.approx(2 / 3)
    assert table["contrast"].value == 2
    assert table["inter_word_correlation"] == Estimate(0.5, 0.5, 0.5, 1)
    # a resample has the first image twice (1/2), the second twice (1), or both (2/3)
    assert (table["pointing"].low, table["pointing"].high, table["pointing"].count) == (0.5, 1.0, 3)
    assert (table["contrast"].low, table["contrast"].high) == (2, 50.5)


def test_intervals_depend_on_the_seed() -> None:
    rng = np.random.default_rng(0)
    gathered = Aggregate()
    for _ in range(40):
        gathered.update({"f3": rng.random(3).tolist(), "contrast": rng.random(3).tolist()})
    assert gathered.compute(200) == gathered.compute(200)
    assert gathered.compute(200) != gathered.compute(200, seed=1)


def test_intervals_are_over_images_and_cover_the_mean() -> None:
    """40 images with 25 equal words each are 40 draws, not 1000."""
    rng, covered, widths = np.random.default_rng(1), 0, []
    for _ in range(60):
        gathered = Aggregate()
        for value in rng.normal(0.5, 0.1, 40):
            gathered.update({"f3": [value] * 25})
        estimate = gathered.compute(300)["f3"]
        covered += estimate.low <= 0.5 <= estimate.high
        widths.append(estimate.high - estimate.low)
    assert 51 <= covered <= 60  # 95% of 60 is 57
    assert np.mean(widths) == pytest.approx(2 * 1.96 * 0.1 / 40**0.5, rel=0.15)


def test_weighted_medians_equal_medians_of_repeated_words() -> None:
    from dcam_fast.evaluation.aggregate import _medians

    rng = np.random.default_rng(2)
    values, weights = rng.random(7), rng.integers(0, 3, (20, 7))
    expected = [np.median(np.repeat(values, row)) for row in weights]
    assert _medians(values, weights.astype(float)) == pytest.approx(expected)


def test_empty_aggregates_have_no_estimates() -> None:
    assert Aggregate().compute() == {}
    gathered = Aggregate()
    gathered.update({"f3": []})
    assert gathered.compute() == {}
