"""Every method on a model small enough to be worked out on paper.

Its image has four cells (2 x 2) with two channels, which are the pixels' red and green from 0 to 1, doubled, less 1.
Layer 0 is the identity. Layer 1 adds to answer position p the sum of the cells, each times ATTENTION[p]. The
head turns two channels into the logits of three tokens. So the gradient of token v's logit at position p with respect
to cell n is `ATTENTION[p, n] * HEAD[:, v]`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcam_fast import ops, scenes
from dcam_fast.attribution import METHODS, Answer, AttributionMethod, GradientCAM
from dcam_fast.attribution.by_word import mean_by_word
from dcam_fast.attribution.methods.activation import Activation
from dcam_fast.attribution.methods.llava_cam import LlavaCam
from dcam_fast.attribution.methods.presets import method_named
from dcam_fast.attribution.methods.random import Random
from dcam_fast.attribution.methods.shared import all_raw_maps, describe
from dcam_fast.attribution.methods.tam import Tam, activation_maps, context_of
from dcam_fast.config import DEFAULT, RefineConfig
from dcam_fast.explainer import Explainer
from dcam_fast.models.adapter import (
    DEFAULT_GENERATION,
    Adapter,
    AdapterError,
    Hidden,
    ImageView,
    Inputs,
    Trajectory,
    Word,
)
from dcam_fast.models.generation import Generation
from dcam_fast.models.tiny.adapter import TinyAdapter

ATTENTION = torch.tensor([[1.0, 2.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0], [3.0, 0.0, 0.0, 1.0]])
HEAD = torch.tensor([[1.0, -1.0, 2.0], [2.0, 1.0, -1.0]])
PIXELS = np.array([[[255, 0, 0], [255, 255, 0]], [[0, 255, 0], [0, 0, 0]]], np.uint8)
A = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]])  # what PIXELS mean
WORDS = (Word("a", (0,)), Word("b", (1,)), Word("c", (2,)))
TRAJECTORY = Trajectory(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2]), 3)


@dataclass(frozen=True)
class PaperInputs(Inputs):
    cells: Tensor


class PaperAdapter(Adapter[PaperInputs]):
    name = "paper"
    device = torch.device("cpu")
    num_layers = 2
    default_layers = (0,)
    mask_token = 9
    default_prompt = "?"

    def __init__(self) -> None:
        self.encoded = 0
        self.forwards = 0

    def encode(self, image: NDArray[np.uint8], prompt: str) -> PaperInputs:
        self.encoded += 1
        y, x = torch.meshgrid(torch.arange(2.0), torch.arange(2.0), indexing="ij")
        view = ImageView("image", torch.arange(4).view(2, 2), torch.stack((x, y, x + 1, y + 1), -1))
        cells = torch.from_numpy(image[..., :2].reshape(4, 2).copy()).float() / 255 * 2 - 1
        return PaperInputs(image, prompt, (view,), 2, cells)

    def generate(self, inputs: PaperInputs, generation: Generation = DEFAULT_GENERATION) -> Trajectory:
        return TRAJECTORY

    def embed(self, inputs: PaperInputs, canvases: Tensor) -> Hidden:
        self.forwards += 1
        return Hidden(inputs.cells[None], torch.zeros(*canvases.shape, 2))

    def layer(self, index: int, hidden: Hidden, inputs: PaperInputs) -> Hidden:
        assert hidden.canvas is not None
        return Hidden(hidden.image, hidden.canvas + index * (ATTENTION[: hidden.canvas.shape[1]] @ hidden.image))

    def logits(self, hidden: Hidden, rows: Tensor, inputs: PaperInputs) -> Tensor:
        assert hidden.canvas is not None
        return hidden.canvas.gather(1, rows[..., None].expand(-1, -1, 2)) @ HEAD

    def image_logits(self, hidden: Hidden, cells: Tensor, tokens: Tensor, inputs: PaperInputs) -> Tensor:
        return (hidden.image[:, cells] @ HEAD)[..., tokens]

    def words(self, trajectory: Trajectory) -> tuple[Word, ...]:
        return WORDS

    def decode(self, tokens: Tensor) -> str:
        return " ".join("abc"[token] for token in tokens.tolist())


@pytest.fixture
def adapter() -> PaperAdapter:
    return PaperAdapter()


def maps_by(method: AttributionMethod, adapter: PaperAdapter, words: tuple[Word, ...] = WORDS) -> Tensor:
    inputs = adapter.encode(PIXELS, "?")
    maps = method.raw_maps(Answer(adapter, inputs, TRAJECTORY), words)
    assert maps.shape == (len(words), 2, 2)
    assert maps.dtype is torch.float32
    return maps.flatten(1)


def assert_maps(maps: Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(maps, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-6)


def test_grad_cam(adapter: PaperAdapter) -> None:
    # word a: mean attention 1, w = (1, 2); A w = (-1, 3, 1, -3), cut at 0 and over its maximum
    # word b: mean 1/2, w = (-1/2, 1/2); A w = (-1, 0, 1, 0)
    # word c: mean 1, w = (2, -1); A w = (3, 1, -3, -1)
    maps = maps_by(METHODS["grad_cam"], adapter)
    assert_maps(maps, [[0, 1, 1 / 3, 0], [0, 0, 1, 0], [1, 1 / 3, 0, 0]])


def test_grad_cam_paper(adapter: PaperAdapter) -> None:
    # channel by channel before the sum: word a, w = (1, 2): (1, 1 + 2, 2, 0)
    # word c, w = (2, -1): (2 + 1, 2, 0, 1)
    method = replace(METHODS["grad_cam_paper"], objective="logit")  # type: ignore[type-var]
    maps = maps_by(method, adapter)
    assert_maps(maps[[0, 2]], [[1 / 3, 1, 2 / 3, 0], [1, 2 / 3, 0, 1 / 3]])
    # its own objective: sum of the logits at the word minus that at the first other word. HEAD's rows sum to (2, 2);
    # word a minus b: attention (1, 1, -1, 1), mean 1/2, w = (1, 1): (1, 2, 1, 0)
    assert_maps(maps_by(METHODS["grad_cam_paper"], adapter)[:1], [[1 / 2, 1, 1 / 2, 0]])


def test_layer_cam(adapter: PaperAdapter) -> None:
    # word a: max(A, 0) max(G, 0) with G = attention * (1, 2): (1, 2 + 4, 0, 0)
    # word b: G = attention * (-1, 1): (0, 1, 1, 0)
    # word c: G = attention * (2, -1): (6, 0, 0, 0)
    assert_maps(maps_by(METHODS["layer_cam"], adapter), [[1 / 6, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0]])


def test_hires_cam(adapter: PaperAdapter) -> None:
    # word a: attention * A (1, 2) = (-1, 6, 0, -3); word b: (0, 0, 2, 0); word c: (9, 0, 0, -1)
    assert_maps(maps_by(METHODS["hires_cam"], adapter), [[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]])


def test_activation_is_the_same_for_all_words_and_takes_one_forward_pass(adapter: PaperAdapter) -> None:
    assert_maps(maps_by(Activation(), adapter), [[1 / 2, 1, 1 / 2, 0]] * 3)
    assert adapter.forwards == 1
    with pytest.raises(AdapterError, match="layer must be 0 to 0 for paper, got 1"):
        maps_by(Activation(target_layers=(1,)), adapter)


def test_llava_cam(adapter: PaperAdapter) -> None:
    # word a: w = mean max(G, 0) = (1, 2): A w = (-1, 3, 1, -3) -> (0, 1, 1/3, 0), what is under a half is cut
    # word b: G = attention (-1, 1), w = (0, 1/2): A w = (-1, 1, 1, -1) / 2
    # word c: w = (2, 0): (2, 2, -2, -2)
    maps = maps_by(LlavaCam(), adapter)
    assert_maps(maps, [[0, 1, 0, 0], [0, 1, 1, 0], [1, 1, 0, 0]])
    assert_maps(maps_by(LlavaCam(threshold=0.3), adapter)[:1], [[0, 1, 1 / 3, 0]])


def test_llava_cam_sums_the_logits_of_a_phrase_and_of_the_answer(adapter: PaperAdapter) -> None:
    # b and c: G = (0, 1, 1, 0) (-1, 1) + (3, 0, 0, 1) (2, -1): channel 0: (6, -1, -1, 2), channel 1: (-3, 1, 1, -1);
    # w = (2, 1/2); A w = (1.5, 2.5, -1.5, -2.5)
    phrase = maps_by(LlavaCam(), adapter, (Word("b c", (1, 2)),))
    assert_maps(phrase, [[0.6, 1, 0, 0]])
    # and a: channel 0: (7, 1, -1, 3), channel 1: (-1, 5, 1, 1); w = (11/4, 7/4): A w = (1, 4.5, -1, -4.5)
    answer = maps_by(LlavaCam(scope="answer", threshold=0), adapter)
    assert_maps(answer, [[2 / 9, 1, 0, 0]] * 3)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"scope": "image"}, "LlavaCam: scope must be 'word' or 'answer', got 'image'"),
        ({"runs": -1}, "LlavaCam: runs must be at least 0, got -1"),
        ({"noise": float("nan")}, "LlavaCam: noise must be at least 0, got nan"),
    ],
)
def test_llava_cam_checks_its_settings(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LlavaCam(**setting)


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        ({"objective": "margin"}, ValueError, "objective must be one of logprob, .* or a callable, got 'margin'"),
        ({"objective": []}, ValueError, r"objective must be one of .*, got \[\]"),
        ({"state": "last"}, ValueError, "state must be a step or one of committed, .*, got 'last'"),
        ({"state": True}, ValueError, "state must be a step or one of .*, got True"),
        ({"state": -1}, ValueError, "state must be a step or one of .*, got -1"),
        ({"aggregation": "sum"}, ValueError, "aggregation must be one of pooled, .*, got 'sum'"),
        ({"target_layers": 2}, TypeError, "target_layers must be a sequence of integers, got 2"),
        ({"target_layers": (1.0,)}, TypeError, "target_layers must be a sequence of integers, got one with 1.0"),
        ({"depth": 0}, ValueError, "depth must be a positive whole number or None, got 0"),
        ({"depth": "1"}, TypeError, "depth must be a positive whole number or None, got '1'"),
        ({"shared": "yes"}, TypeError, "shared must be True or False, got 'yes'"),
        ({"profile": "default"}, TypeError, "profile must be a RefineConfig .*, got 'default'"),
    ],
)
def test_gradient_cam_checks_its_settings(setting: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^GradientCAM: {message}"):
        GradientCAM(**setting)


def test_settings_of_numpy_are_those_of_python() -> None:
    method = GradientCAM(state=np.int64(3), target_layers=np.array([1, 2]), depth=np.int8(1))  # type: ignore[arg-type]
    assert method == GradientCAM(state=3, target_layers=(1, 2), depth=1)
    json.dumps(describe(method))


@pytest.mark.parametrize("layers", [(), (2, 1), (5,), (99,), (-1,)])
def test_layers_are_checked_before_any_work(layers: tuple[int, ...]) -> None:
    explainer = Explainer(TinyAdapter())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explainer.adapter, "encode", lambda *_: pytest.fail("encoded"))
        for call in (explainer.explain, explainer.stream):
            with pytest.raises(AdapterError, match=r"^check_layers: layers? must be "):
                call(PIXELS, method=GradientCAM(target_layers=layers))
        with pytest.raises(AdapterError, match=r"^check_layers: layers? must be "):
            explainer.explain_many([], method=GradientCAM(target_layers=layers))


def test_a_method_has_all_parts_of_one() -> None:
    @dataclass(frozen=True)
    class WithoutLayers:
        profile: RefineConfig = DEFAULT
        claim: str = ""

        def raw_maps(self, answer: Answer, words: Any) -> Tensor:
            return answer.zeros(len(words))

    with pytest.raises(TypeError, match=r"^explain: method must be one of .* or an AttributionMethod, got "):
        Explainer(TinyAdapter()).explain(PIXELS, method=WithoutLayers())  # type: ignore[arg-type]


def test_smoothed_llava_cam_is_the_mean_over_seeded_noise(adapter: PaperAdapter) -> None:
    quiet = maps_by(LlavaCam(runs=3, noise=0.0), adapter)
    assert_maps(quiet, maps_by(LlavaCam(), adapter).tolist())
    encoded = adapter.encoded
    noisy = maps_by(LlavaCam(runs=3, threshold=0), adapter)
    assert adapter.encoded == encoded + 1 + 3
    assert torch.equal(noisy, maps_by(LlavaCam(runs=3, threshold=0), adapter))
    assert not torch.equal(noisy, maps_by(LlavaCam(runs=3, threshold=0, seed=1), adapter))
    rng, expected = np.random.default_rng(0), torch.zeros(4)
    for _ in range(3):
        noisy_pixels = (PIXELS + rng.normal(0, 25.5, PIXELS.shape)).round().clip(0, 255)[..., :2].reshape(4, 2)
        expected += (torch.from_numpy(noisy_pixels).float() / 255 * 2 - 1).matmul(torch.tensor([1.0, 2.0])).clamp(min=0)
    torch.testing.assert_close(noisy[0], expected / expected.max())


def test_activation_maps_of_tam() -> None:
    cells = torch.tensor([[2.0, 4.0, -1.0], [1.0, 1.0, 0.0], [0.0, 2.0, 6.0]])
    scores = torch.tensor([[5.0, 1.0, 3.0], [2.0, 1.0, -2.0], [4.0, 4.0, 1.0]])
    # row 0, interferers 1 and 2, weights 1/4 and 3/4 of (1, 1, 0) and (0, 2, 6): I = (1/4, 7/4, 9/2);
    # s = (2/4 + 28/4) / (1/16 + 49/16 + 324/16) = 7.5 / 23.375; the largest value of all is the score of 3
    others = ~torch.eye(3, dtype=torch.bool)
    share = 7.5 / 23.375
    maps = activation_maps(cells, scores, others, others)
    torch.testing.assert_close(maps[0], torch.tensor([2 - share / 4, 4 - share * 7 / 4, 0.0]) / (4 - share * 7 / 4))
    # row 1: token 2's score is negative, so I = (2, 4, 0), s = 6 / 20: (0.4, -0.2, 0); its score of 2 is the maximum
    torch.testing.assert_close(maps[1], torch.tensor([0.4, 0, 0]) / 2)
    # without interferers nothing is subtracted, with no context no score counts
    nothing = torch.zeros(3, 3, dtype=torch.bool)
    torch.testing.assert_close(activation_maps(cells, scores, nothing, nothing)[0], torch.tensor([0.5, 1, 0]))
    # scores count that do not interfere: row 1 in the context of token 0 alone is (1, 1, 0) beside a score of 2
    torch.testing.assert_close(activation_maps(cells, scores, others.tril(), nothing)[1], torch.tensor([0.5, 0.5, 0]))
    # the joint minimum is that of the scores where it is the lower: (6, 7) beside 5 and 8
    high = activation_maps(
        torch.tensor([[6.0, 7.0]] * 2), torch.tensor([[0.0, 5.0], [8.0, 0.0]]), others[:2, :2], nothing[:2, :2]
    )
    torch.testing.assert_close(high, torch.tensor([[0.5, 1.0], [0.0, 0.5]]))


def test_context_of_tam() -> None:
    texts = ["dog", "and", "dog"]
    context, baselines = context_of(texts, causal=False)
    assert context.int().tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    assert baselines.int().tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    context, baselines = context_of(texts, causal=True)
    assert context.int().tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert baselines.int().tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]


def test_tam_reads_the_logits_at_the_cells(adapter: PaperAdapter) -> None:
    cells = (A @ HEAD).T
    hidden = ATTENTION @ A
    scores = (hidden @ HEAD).T
    for causal in (False, True):
        adapter.causal = causal  # type: ignore[misc]
        expected = activation_maps(cells, scores, *context_of(["a", "b", "c"], causal))
        filtered = ops.rank_filter(expected.view(3, 2, 2), 3).flatten(1)
        torch.testing.assert_close(maps_by(Tam(), adapter), filtered)
    # by hand, first word of a causal model: no interference; its class at the cells is (-1, 3, 1, -3), cut at 0
    first = torch.tensor([[[0.0, 1.0], [1 / 3, 0.0]]])
    torch.testing.assert_close(maps_by(Tam(), adapter)[:1], ops.rank_filter(first, 3).flatten(1))


def test_random_is_seeded_and_independent_of_other_words(adapter: PaperAdapter) -> None:
    maps = maps_by(Random(), adapter)
    assert torch.equal(maps, maps_by(Random(), adapter))
    assert not torch.equal(maps, maps_by(Random(seed=1), adapter))
    assert torch.equal(maps[1:2], maps_by(Random(), adapter, WORDS[1:2]))
    assert len({tuple(row) for row in maps.tolist()}) == 3


def test_phrase_map_is_the_mean_of_its_tokens() -> None:
    values = torch.tensor([[1.0, 3.0], [3.0, 5.0], [7.0, 7.0]])
    words = (Word("a b", (0, 4)), Word("c", (2,)))
    assert mean_by_word(values, words).tolist() == [[2, 4], [7, 7]]


@pytest.mark.parametrize("name", METHODS)
def test_no_words_give_no_maps(adapter: PaperAdapter, name: str) -> None:
    if name == "llava_cam_smooth":
        maps_by(LlavaCam(runs=2), adapter, ())
    else:
        maps_by(METHODS[name], adapter, ())


def test_methods_share_equal_passes(adapter: PaperAdapter) -> None:
    inputs = adapter.encode(PIXELS, "?")
    names = ("grad_cam", "layer_cam", "hires_cam", "tam")
    alone = {name: maps_by(METHODS[name], adapter) for name in names}
    adapter.forwards = 0
    together = all_raw_maps({name: METHODS[name] for name in names}, Answer(adapter, inputs, TRAJECTORY), WORDS)
    assert adapter.forwards == 2  # one for the three CAMs, one for TAM
    assert tuple(together) == names
    for name in names:
        torch.testing.assert_close(together[name].flatten(1), alone[name])


def test_answer_has_what_methods_need(adapter: PaperAdapter) -> None:
    answer = Answer(adapter, adapter.encode(PIXELS, "?"), TRAJECTORY)
    assert answer.view is answer.inputs.views[0]
    assert answer.tokens.tolist() == [0, 1, 2]
    assert answer.positions(WORDS[1:]).tolist() == [1, 2]
    assert (answer.layers(None), answer.layers((1,))) == ((0,), (1,))
    assert answer.zeros(3).shape == (3, 2, 2)
    assert repr(answer) == "Answer('a b c', model='paper', cells=[2, 2])"


def test_describe() -> None:
    assert describe(Random(seed=3)) == {"kind": "Random", "seed": 3, "target_layers": None}
    assert describe(GradientCAM(objective=max))["objective"] == repr(max)
    assert method_named("tam") == Tam()
    assert method_named(Tam(kernel_size=5)) == Tam(kernel_size=5)


def test_a_model_without_image_logits_is_rejected(adapter: PaperAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(PaperAdapter, "image_logits")
    with pytest.raises(AdapterError, match="image_logits: model must read logits at the image's positions, got paper"):
        maps_by(Tam(), adapter)


@pytest.mark.parametrize("attention", ["prefix", "joint"])
def test_every_method_explains_the_embedded_model(attention: str) -> None:
    tiny = TinyAdapter(attention=attention)  # type: ignore[arg-type]
    scene = scenes.sample_scene(np.random.default_rng(3), 64, 80, 1)
    inputs = tiny.encode(scene.image, scenes.CAPTION_PROMPT)
    trajectory = tiny.generate(inputs, Generation(8))
    words = tiny.words(trajectory)[1:4]
    methods = METHODS | {"llava_cam_smooth": LlavaCam(runs=2)}
    for name, maps in all_raw_maps(methods, Answer(tiny, inputs, trajectory), words).items():
        assert maps.shape == (3, 13, 16), name
        assert maps.isfinite().all(), name
        assert maps.max() > 0, name


def test_explainer_accepts_any_method() -> None:
    scene = scenes.sample_scene(np.random.default_rng(3), 64, 64, 1)
    explanation = Explainer.from_pretrained().explain(
        scene.image, targets=[1], method="tam", generation=Generation(steps=8)
    )
    assert explanation.provenance["method"] == "tam"
    assert explanation.provenance["kind"] == "Tam"
    assert explanation.maps.max() > 0.99
