"""How an answer is generated: the options, and what is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dcam_fast import Explainer, Generation
from dcam_fast.models.sampling import draw, draw_with_noise, keep_likely, make_generator
from dcam_fast.models.tiny.adapter import TinyAdapter

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": "3"}, TypeError, "steps must be a positive whole number or None, got '3'"),
        ({"steps": 2.5}, TypeError, "steps must be a positive whole number or None, got 2.5"),
        ({"steps": np.ones(2, int)}, TypeError, "steps must be a positive whole number or None, got array"),
        ({"steps": -1}, ValueError, "steps must be a positive whole number or None, got -1"),
        ({"block_length": True}, TypeError, "block_length must be a positive whole number or None, got True"),
        ({"block_length": 0}, ValueError, "block_length must be a positive whole number or None, got 0"),
        ({"temperature": True}, TypeError, "temperature must be a number from 0 or None, got True"),
        ({"temperature": "hot"}, TypeError, "temperature must be a number from 0 or None, got 'hot'"),
        ({"temperature": -0.1}, ValueError, "temperature must be a number from 0 or None, got -0.1"),
        ({"temperature": float("nan")}, ValueError, "temperature must be a number from 0 or None, got nan"),
        ({"temperature": float("inf")}, ValueError, "temperature must be a number from 0 or None, got inf"),
        ({"temperature": 10**400}, ValueError, "temperature must be a number from 0 or None, got 1000"),
        ({"seed": None}, TypeError, "seed must be a whole number, got None"),
        ({"seed": 1.0}, TypeError, "seed must be a whole number, got 1.0"),
        ({"seed": -1}, ValueError, r"seed must be from 0 to 2\*\*63 - 1, got -1"),
        ({"seed": 2**63}, ValueError, r"seed must be from 0 to 2\*\*63 - 1, got 9223372036854775808"),
    ],
)
def test_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"Generation: {message}"):
        Generation(**options)


def test_options_of_numpy() -> None:
    options = Generation(np.int64(3), np.uint8(2), np.float32(0.5), np.int32(7))
    assert options == Generation(3, 2, 0.5, 7)
    assert {type(option) for option in (options.steps, options.block_length, options.seed)} == {int}
    assert type(options.temperature) is float


def test_noise_is_that_of_torchs_own_generator() -> None:
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        noise = torch.rand(2, 9, 7, dtype=torch.float64)[:, 6:]
    expected = (logits.double() - 0.7 * torch.log(-noise.log())).argmax(-1)
    before = torch.get_rng_state()
    assert draw_with_noise(logits, 0.7, make_generator(Generation(seed=5), CPU), 6).equal(expected)
    assert draw_with_noise(logits, 0.0, make_generator(Generation(seed=5), CPU), 6).equal(logits.argmax(-1))
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize(("temperature", "share"), [(1.0, 3 / 4), (0.5, 9 / 10)])
def test_tokens_are_drawn_by_their_probability(temperature: float, share: float) -> None:
    logits = torch.tensor([[0.0, np.log(3.0)]]).expand(20_000, -1)
    noisy = draw_with_noise(logits, temperature, make_generator(Generation(), CPU))
    drawn = draw((logits / temperature).softmax(-1), make_generator(Generation(), CPU))
    assert noisy.double().mean() == pytest.approx(share, abs=0.02)
    assert drawn.double().mean() == pytest.approx(share, abs=0.02)


def test_probabilities_that_do_not_sum_to_one_draw_nothing() -> None:
    """As the official code of Dream, whose Categorical rejects them."""
    broken = torch.tensor([[0.1, 0.9], [float("nan"), 1.0]])
    with pytest.raises(ValueError, match="Simplex"):
        torch.distributions.Categorical(probs=broken, validate_args=True)
    generator = make_generator(Generation(), CPU)
    before = generator.get_state()
    draw(broken, generator)
    assert generator.get_state().equal(before)


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [(None, None, [0, 1, 2, 3]), (2, None, [0, 1]), (None, 0.6, [0, 1]), (9, 1.0, [0, 1, 2, 3]), (1, 0.9, [0])],
)
def test_likely_tokens(top_k: int | None, top_p: float | None, kept: list[int]) -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    order = torch.tensor([2, 0, 3, 1])  # and not sorted
    got = keep_likely(logits[:, order], top_k, top_p).isfinite()[0, order.argsort()]
    assert got.nonzero()[:, 0].tolist() == kept


def test_the_seed_makes_the_answer() -> None:
    adapter = TinyAdapter()
    inputs = adapter.encode(IMAGE, adapter.default_prompt)

    def tokens(temperature: float | None, seed: int = 0) -> list[int]:
        generation = Generation(12, temperature=temperature, seed=seed)
        return adapter.generate(inputs, generation).tokens.tolist()  # type: ignore[no-any-return]

    assert tokens(None) == tokens(0.0) == tokens(0, seed=7)
    assert tokens(8.0) == tokens(8.0)
    assert tokens(8.0) != tokens(8.0, seed=7), "nearly uniform draws of 36 tokens"
    assert adapter.mask_token not in tokens(8.0)


def test_a_sampled_answer_is_explained_as_it_is() -> None:
    explainer = Explainer.from_pretrained("tiny")
    generation = Generation(6, temperature=1.5, seed=2)
    whole = explainer.explain(IMAGE, targets=[0], generation=generation)
    stream = explainer.stream(IMAGE, generation=generation)
    assert len(list(stream)) == 6
    assert stream.explanation([0]).tokens == whole.tokens
    assert whole.tokens != explainer.explain(IMAGE, targets=[0], generation=Generation(6)).tokens
