"""Contrasts: gradients of a difference, the canvases they are read from, and what users see of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dcam_fast import Contrast, Explainer, GradientCAM, scenes
from dcam_fast.attribution import Answer
from dcam_fast.attribution.contrasts import ContrastedWord, contrast_targets, encode_instead, log_preference
from dcam_fast.attribution.engine import capture
from dcam_fast.attribution.methods.presets import METHODS
from dcam_fast.attribution.methods.shared import all_raw_maps
from dcam_fast.attribution.probabilities import log_probabilities
from dcam_fast.benchmarks.attribution.shaped import Shape, ShapedAdapter
from dcam_fast.contrast import split_contrast
from dcam_fast.models.adapter import NO_MASK, AdapterError, Trajectory, Word
from dcam_fast.models.generation import Generation
from dcam_fast.models.tiny.adapter import TinyAdapter
from dcam_fast.ops import reference

SMALL = Shape(layers=5, width=32, mlp=48, heads=4, words=61, base=2, rows=3, columns=5, prompt=6, answer=9)
MASK = 90


def tiny_answer(attention: str) -> Answer:
    adapter = TinyAdapter(attention=attention)  # type: ignore[arg-type]
    inputs = adapter.encode(scenes.sample_scene(np.random.default_rng(5), 96, 128, 2).image, scenes.CAPTION_PROMPT)
    return Answer(adapter, inputs, adapter.generate(inputs, Generation(8)))


def shaped_answer(attention: str) -> Answer:
    adapter = ShapedAdapter(SMALL, attention)  # type: ignore[arg-type]
    inputs = adapter.encode(np.zeros((48, 80, 3), np.uint8), "?")
    trajectory = adapter.generate(inputs)
    return Answer(adapter, inputs, replace(trajectory, length=6))  # room for longer words


ASK: dict[str, Callable[[], Answer]] = {
    "tiny, prefix": lambda: tiny_answer("prefix"),
    "tiny, joint": lambda: tiny_answer("joint"),
    "shaped, prefix": lambda: shaped_answer("prefix"),
    "shaped, joint": lambda: shaped_answer("joint"),
}


@pytest.fixture(scope="module", params=list(ASK))
def answer(request: pytest.FixtureRequest) -> Answer:
    return ASK[request.param]()


def contrasted(answer: Answer, positions: tuple[int, ...], count: int) -> ContrastedWord:
    """A word of an answer against `count` tokens that are not there."""
    tokens = tuple(token for token in range(20, 58) if token not in answer.trajectory.tokens.tolist())[:count]
    return ContrastedWord("word", positions, instead="other", instead_tokens=tokens)


def naive_gradient(answer: Answer, canvas: Tensor, positions: list[int], tokens: Tensor, layer: int) -> Any:
    """Activations and gradients `[S, D]` of the summed log-probability of tokens, through one graph of the model."""
    adapter = answer.adapter
    hidden = adapter.embed(answer.inputs, canvas[None])
    for index in range(adapter.num_layers):
        hidden = adapter.layer(index, hidden, answer.inputs)
        if index == layer:
            hidden = replace(hidden, image=hidden.image.detach().requires_grad_())
            features = hidden.image
    logits = adapter.logits(hidden, torch.tensor([positions]), answer.inputs)[0].double()
    score = logits.log_softmax(-1).gather(1, tokens[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, features)
    return features.detach()[0], gradient[0]


@pytest.mark.parametrize("state", ["remask", "committed", "first"])
@pytest.mark.parametrize(("positions", "count"), [((1,), 1), ((1, 2), 2), ((2,), 3), ((1, 2, 3), 1)])
def test_gradient_is_the_naive_one_of_the_difference(
    answer: Answer, positions: tuple[int, ...], count: int, state: Any
) -> None:
    """Both phrases masked by hand, run on their own, differentiated and subtracted."""
    trajectory, mask, layer = answer.trajectory, answer.adapter.mask_token, 2
    word = contrasted(answer, positions, count)
    start, end = positions[0], positions[-1] + 1
    canvas = trajectory.tokens.clone()
    if state == "committed":
        canvas[trajectory.steps >= trajectory.steps[list(positions)].min()] = mask
    if state == "first":
        canvas[:] = mask
    canvas[start:end] = mask
    length, extra = len(canvas), count - len(positions)
    other = torch.cat((canvas[:start], torch.full((count,), mask), canvas[end:], torch.full((length,), mask)))
    other = other[:length]
    own = naive_gradient(answer, canvas, list(positions), trajectory.tokens[start:end], layer)
    against = naive_gradient(answer, other, list(range(start, start + count)), torch.tensor(word.instead_tokens), layer)
    expected = own[1] - against[1]

    targets = contrast_targets(trajectory, word, state, mask)
    (captured,) = capture(answer.adapter, answer.inputs, targets, (layer,), "logprob")
    assert len(captured.gradients) == (1 if extra == 0 else 2)
    cells = answer.view.cells.flatten()
    scale = torch.maximum(own[1][cells].abs().max(), against[1][cells].abs().max())
    got = captured.gradients.sum(0)[cells]
    assert float((got - expected[cells]).abs().max() / scale) <= 1e-5
    torch.testing.assert_close(captured.activations[0, cells], own[0][cells], rtol=1e-4, atol=1e-5)

    method = GradientCAM(state=state, target_layers=(layer,))
    (map,) = method.raw_maps(answer, [word])
    pooled = reference.pool([captured.activations[:1]], [captured.gradients.sum(0, keepdim=True)], cells, "layer_cam")
    torch.testing.assert_close(map.flatten(), pooled[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("positions", "count"), [((1,), 1), ((1, 2), 2)])
def test_exchanging_the_words_negates_the_gradient(answer: Answer, positions: tuple[int, ...], count: int) -> None:
    word = contrasted(answer, positions, count)
    tokens = answer.trajectory.tokens.clone()
    own = tuple(tokens[list(positions)].tolist())
    tokens[list(positions)] = torch.tensor(word.instead_tokens)
    exchanged = replace(word, instead_tokens=own), replace(answer.trajectory, tokens=tokens)
    gradients = []
    for one, trajectory in ((word, answer.trajectory), exchanged):
        targets = contrast_targets(trajectory, one, "remask", answer.adapter.mask_token)
        (captured,) = capture(answer.adapter, answer.inputs, targets, (2,), "logprob")
        gradients.append(captured.gradients[0])
    scale = float(gradients[0].abs().max())
    assert scale > 0
    torch.testing.assert_close(gradients[0] / scale, -gradients[1] / scale, rtol=0, atol=1e-5)


def test_logits_and_log_probabilities_differ_by_nothing_on_one_canvas(answer: Answer) -> None:
    """The normalization is the same for both words, so it cancels."""
    words = [contrasted(answer, (1,), 1)]
    by_logit, by_logprob = (
        GradientCAM(objective=objective, target_layers=(2,)).raw_maps(answer, words)
        for objective in ("logit", "logprob")
    )
    torch.testing.assert_close(by_logit, by_logprob, rtol=1e-3, atol=1e-3)


def test_maps_stand_in_the_order_of_the_words_and_several_methods_share_passes(answer: Answer) -> None:
    words = [Word("a", (0,)), contrasted(answer, (1,), 1), Word("b", (2,)), contrasted(answer, (1, 2), 1)]
    one = GradientCAM(target_layers=(1, 2))
    methods = {"one": one, "two": replace(one, aggregation="grad_cam")}
    together = all_raw_maps(methods, answer, words)
    for name, method in methods.items():
        assert together[name].shape == (4, *answer.view.cells.shape)
        apart = torch.cat([method.raw_maps(answer, [word]) for word in words])
        torch.testing.assert_close(together[name], apart, rtol=1e-4, atol=1e-4)


def place(positions: tuple[int, ...], *instead: int) -> ContrastedWord:
    return ContrastedWord("word", positions, instead="other", instead_tokens=instead)


#                             the answer is 10 11 12 13, then one token of padding; 13 is written first
WRITTEN = Trajectory(torch.tensor([10, 11, 12, 13, 0]), torch.tensor([3, 1, 2, 0, 4]), 4)


@pytest.mark.parametrize(
    ("state", "word", "own", "other"),
    [
        ("remask", place((1, 2), 7, 8), [10, MASK, MASK, 13, 0], [10, MASK, MASK, 13, 0]),
        ("final", place((1, 2), 7, 8), [10, MASK, MASK, 13, 0], [10, MASK, MASK, 13, 0]),
        ("first", place((1, 2), 7, 8), [MASK] * 5, [MASK] * 5),
        ("committed", place((1, 2), 7, 8), [MASK, MASK, MASK, 13, MASK], [MASK, MASK, MASK, 13, MASK]),
        (3, place((1,), 7), [MASK, MASK, 12, 13, MASK], [MASK, MASK, 12, 13, MASK]),
        ("remask", place((0, 2), 7, 8), [MASK, 11, MASK, 13, 0], [MASK, 11, MASK, 13, 0]),
        ("remask", place((1,), 7, 8), [10, MASK, 12, 13, 0], [10, MASK, MASK, 12, 13]),
        ("remask", place((1, 2), 7), [10, MASK, MASK, 13, 0], [10, MASK, 13, 0, MASK]),
    ],
)
def test_canvases(state: Any, word: ContrastedWord, own: list[int], other: list[int]) -> None:
    targets = contrast_targets(WRITTEN, word, state, MASK)
    count = len(word.positions)
    assert targets.canvases[:count].tolist() == [own] * count
    assert targets.canvases[count:].tolist() == [other] * len(word.instead_tokens)
    assert targets.tokens.tolist() == [WRITTEN.tokens[p] for p in word.positions] + list(word.instead_tokens)
    assert targets.positions[:count].tolist() == list(word.positions)
    assert targets.maps is not None
    assert targets.maps.unique().tolist() == ([0] if own == other else [0, 1])
    assert targets.weights is not None
    assert targets.weights.tolist() == [1] * count + [-1] * len(word.instead_tokens)


def test_canvases_of_a_family_without_a_mask_token() -> None:
    """A masked place has the noise that generation began from. What moves loses its conditioning, the last column."""
    recorded = torch.tensor([[50, 51, 52, 53, 54, 0], [10, 51, 52, 13, 54, 1], [10, 11, 52, 13, 0, 2]])
    written = replace(WRITTEN, steps=torch.tensor([0, 1, 2, 0, 1]), canvases=recorded)
    same = contrast_targets(written, place((1, 2), 7, 8), "remask", NO_MASK)
    assert same.canvases.unique(dim=0).tolist() == [[10, 51, 52, 13, 0, 0]]
    before = contrast_targets(written, place((1, 2), 7, 8), "committed", NO_MASK)
    assert before.canvases.unique(dim=0).tolist() == [[10, 51, 52, 13, 54, 1]]
    longer = contrast_targets(written, place((1,), 7, 8), "committed", NO_MASK)
    assert longer.canvases.tolist() == [[10, 51, 52, 13, 54, 1]] + [[10, 51, 52, 52, 13, 0]] * 2


def test_words_without_room_are_refused() -> None:
    with pytest.raises(AdapterError, match=r"^Contrast: instead must be at most 2 tokens, which the answer .*, got 3$"):
        contrast_targets(WRITTEN, place((1,), 7, 8, 9), "remask", MASK)
    with pytest.raises(AdapterError, match=r"^Contrast: instead must be 2 tokens, .* not next to each other, got 1$"):
        contrast_targets(WRITTEN, place((0, 2), 7), "remask", MASK)


def test_the_preference_is_that_of_both_probabilities(answer: Answer) -> None:
    word = contrasted(answer, (1, 2), 2)
    targets = contrast_targets(answer.trajectory, word, "remask", answer.adapter.mask_token)
    own, other = log_probabilities(answer.adapter, answer.inputs, targets).view(2, 2).sum(1).double().exp()
    count = answer.view.cells.numel()
    nothing, everything = torch.zeros(count, dtype=torch.bool), torch.arange(count) < count // 2
    arguments = (answer.adapter, answer.inputs, answer.trajectory, word, 2)
    visible, without = log_preference(*arguments, nothing)
    torch.testing.assert_close(visible, without, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(visible.double().exp(), own / (own + other), rtol=1e-4, atol=1e-6)
    assert not torch.isclose(log_preference(*arguments, everything)[1], visible, rtol=1e-4, atol=0)


PIECES = {"red": 1, " red": 2, "blue": 3, " blue": 4, "ish": 5}


def _encode(text: str) -> list[int]:
    if text in PIECES:
        return [PIECES[text]]
    return [PIECES[text.removesuffix("ish")], PIECES["ish"]]


@pytest.mark.parametrize(
    ("tokens", "positions", "instead", "expected"),
    [
        ([1], (0,), "blue", (3,)),
        ([1, 2], (1,), "blue", (4,)),
        ([1, 2, 5], (1, 2), "blueish", (4, 5)),
        ([1], (0,), "blueish", (3, 5)),
    ],
)
def test_other_words_have_the_leading_space_of_the_word(
    tokens: list[int], positions: tuple[int, ...], instead: str, expected: tuple[int, ...]
) -> None:
    trajectory = Trajectory(torch.tensor(tokens), torch.zeros(len(tokens), dtype=torch.int64), len(tokens))
    texts = {index: text for text, index in PIECES.items()}

    def decode(ids: Tensor) -> str:
        return "".join(texts[index] for index in ids.tolist())

    keeps: Any = SimpleNamespace(decode=decode, encode_answer=_encode, mask_token=MASK)
    assert encode_instead(keeps, trajectory, positions, instead) == expected
    # a tokenizer that writes the word in another way than the model did: the answer's text says whether a space is due
    lists = {"red": [9], " red": [9], "redish": [9], " redish": [9]}
    other: Any = SimpleNamespace(
        decode=decode, encode_answer=lambda text: lists.get(text) or _encode(text), mask_token=MASK
    )
    assert encode_instead(other, trajectory, positions, instead) == expected


def test_other_words_of_a_tokenizer_that_adds_the_space_itself() -> None:
    trajectory = Trajectory(torch.tensor([2, 2]), torch.zeros(2, dtype=torch.int64), 2)
    adapter: Any = SimpleNamespace(
        decode=lambda ids: " ".join({2: "red", 4: "blue"}[index] for index in ids.tolist()),
        encode_answer=lambda text: _encode(" " + text),
        mask_token=MASK,
    )
    assert encode_instead(adapter, trajectory, (1,), "blue") == (4,)


# ----------------------------------------------------------------------------------------------------------- for users


@pytest.fixture(scope="module", params=["prefix", "joint"])
def explainer(request: pytest.FixtureRequest) -> Explainer:
    return Explainer.from_pretrained("tiny", attention=request.param)


IMAGE = scenes.sample_scene(np.random.default_rng(21), 96, 128, 2).image


def test_explain(explainer: Explainer) -> None:
    words = explainer.explain(IMAGE, targets="all")
    first = words.tokens[2].text
    other = next(color for color in scenes.COLORS if color not in words.answer.split())
    chosen = explainer.explain(IMAGE, targets=[first, Contrast(first.upper(), other), Contrast("a#2", "the"), 0])
    assert chosen.names == (first, f"{first} > {other}", "a#2 > the", "a")
    assert [target.instead for target in chosen.targets] == [None, other, "the", None]
    assert [target.text for target in chosen.targets] == [first, first, "a", "a"]
    assert chosen.find(f"{first}>{other}") == 1
    torch.testing.assert_close(chosen.raw_maps[[0, 3]], words.raw_maps[[2, 0]], rtol=0, atol=1e-3)
    assert not torch.allclose(chosen.raw_maps[0], chosen.raw_maps[1], atol=1e-3)
    for target in chosen.targets:
        assert 0 <= target.groundedness <= 1


def test_several_words(explainer: Explainer) -> None:
    answer = explainer.explain(IMAGE, targets="all").answer.split()
    phrase = " ".join(answer[1:4])
    explanation = explainer.explain(IMAGE, targets=[Contrast(phrase, "small object"), Contrast(answer[3], "red ring")])
    assert [target.positions for target in explanation.targets] == [(1, 2, 3), (3,)]
    assert bool(explanation.maps.isfinite().all())


@pytest.mark.parametrize(
    "method", ["layer_cam", "hires_cam", "grad_cam", GradientCAM(depth=1), GradientCAM(shared=True)]
)
def test_methods_that_explain_contrasts(explainer: Explainer, method: Any) -> None:
    explanation = explainer.explain(IMAGE, targets=[Contrast("a", "the")], method=method)
    assert explanation.names == ("a > the",)


def test_a_stream_explains_contrasts_at_its_state(explainer: Explainer) -> None:
    stream = explainer.stream(IMAGE, generation=Generation(8))
    for _ in stream:
        pass
    targets = ["a", Contrast("a#2", "the")]
    streamed = stream.explanation(targets)
    method = GradientCAM(state="committed")
    whole = explainer.explain(IMAGE, targets=targets, method=method, generation=Generation(8))
    assert streamed.names == whole.names == ("a", "a#2 > the")
    torch.testing.assert_close(streamed.raw_maps, whole.raw_maps, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("contrast", "method", "message"),
    [
        (Contrast("a", "zebra"), "default", r"Contrast: instead must be words that tiny can write, got 'zebra'"),
        (Contrast("a", "<mask>"), "default", r"Contrast: instead must be words that tiny can write, got '<mask>'"),
        (
            Contrast("a", "the"),
            "tam",
            r"explain: method must be a GradientCAM .* for a Contrast, got Tam",
        ),
        (Contrast("a", "the"), "published", r"GradientCAM: objective must be 'logprob' or 'logit' for a Contrast, got"),
    ],
)
def test_what_is_refused_is_refused_before_the_model_runs(
    explainer: Explainer, monkeypatch: pytest.MonkeyPatch, contrast: Contrast, method: str, message: str
) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(explainer.adapter, "encode", never)
    with pytest.raises(ValueError, match=message):
        explainer.explain(IMAGE, targets=[contrast], method=method)


def test_given_answers_have_contrasts_without_steps(explainer: Explainer) -> None:
    text = explainer.explain(IMAGE).answer
    given = explainer.explain(IMAGE, targets=[Contrast("a#2", "the"), Contrast("a", "the large")], answer=text)
    assert given.names == ("a#2 > the", "a > the large")
    with pytest.raises(ValueError, match="steps"):
        explainer.explain(IMAGE, targets=[Contrast("a", "the")], answer=text, method=GradientCAM(state="committed"))


def test_what_the_answer_must_have(explainer: Explainer) -> None:
    with pytest.raises(ValueError, match=r"^Contrast: instead must be other words than 'a', got 'A'$"):
        explainer.explain(IMAGE, targets=[Contrast("a", "A")])
    with pytest.raises(ValueError, match=r"^explain: target must be words of the answer \(.*\), got 'zebra > a'$"):
        explainer.explain(IMAGE, targets=[Contrast("zebra", "a")])


def test_no_other_method_is_a_gradient_cam() -> None:
    """Every named method either explains contrasts or is refused above."""
    refused = {name for name, method in METHODS.items() if not isinstance(method, GradientCAM)}
    assert refused == {"llava_cam", "llava_cam_smooth", "tam", "attention_rollout", "activation", "random"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("", "blue"), ValueError, "^Contrast: word must be words or a sign, got ''$"),
        (("red", " "), ValueError, "^Contrast: instead must be words or a sign, got ' '$"),
        (("red", "\ud800"), ValueError, "^Contrast: instead must be text without lone surrogates, got "),
        (("red", 3), TypeError, "^Contrast: instead must be a str, got 3$"),
    ],
)
def test_a_contrast_has_two_words(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Contrast(*arguments)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("red", "red"),
        (">", ">"),
        ("> 5", "> 5"),
        ("red>blue", Contrast("red", "blue")),
        (" ring#2 > large star ", Contrast("ring#2", "large star")),
    ],
)
def test_contrasts_on_the_command_line(text: str, target: str | Contrast) -> None:
    assert split_contrast(text) == target
