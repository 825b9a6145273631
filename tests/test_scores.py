"""What words depend on: interventions on hidden states, the shares that they give, and what an explanation claims."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dcam_fast import METHODS, Contrast, Explainer, Explanation, sample_image, scenes
from dcam_fast.attribution import scores
from dcam_fast.attribution.answer import Answer
from dcam_fast.attribution.by_word import positions_of
from dcam_fast.attribution.engine import run_layers
from dcam_fast.attribution.methods.gradient_cam import build_targets
from dcam_fast.attribution.probabilities import Interventions, Readings, read
from dcam_fast.models.adapter import Hidden, ImageView, Inputs, Word
from dcam_fast.models.tiny.adapter import TinyAdapter

LAYER = 2
POSITIONS = (1, 2, 3, 7)
SCORES = ("groundedness", "image_share", "prompt_share", "answer_share")


@pytest.fixture(scope="module", params=("prefix", "joint"))
def answer(request: pytest.FixtureRequest) -> Answer:
    adapter = TinyAdapter(attention=request.param)
    inputs = adapter.encode(scenes.sample_scene(np.random.default_rng(5), 64, 96, 3).image, adapter.default_prompt)
    return Answer(adapter, inputs, adapter.generate(inputs))


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer.from_pretrained("tiny")


def by_hand(answer: Answer, position: int, rows: list[int], source: list[int], in_answer: bool = False) -> Tensor:
    """Log-probabilities `[V]` at a position, with rows at the output of `LAYER` replaced by the mean of others."""
    adapter, inputs = answer.adapter, answer.inputs
    targets = build_targets(answer.trajectory, torch.tensor([position]), "remask", adapter.mask_token)
    hidden = run_layers(adapter, adapter.embed(inputs, targets.canvases), inputs, range(LAYER + 1))
    image, canvas = hidden.image.clone(), None if hidden.canvas is None else hidden.canvas.clone()
    changed = image if canvas is None or not in_answer else canvas
    offset = changed.shape[1] - len(answer.trajectory.tokens) if in_answer else 0
    if source:
        mean = torch.stack([changed[0, offset + row] for row in source]).mean(0)
        for row in rows:
            changed[0, offset + row] = mean
    hidden = run_layers(adapter, Hidden(image, canvas), inputs, range(LAYER + 1, adapter.num_layers))
    return adapter.logits(hidden, torch.tensor([[position]]), inputs)[0, 0].log_softmax(-1)


@torch.no_grad()
def test_interventions_replace_their_rows_alone(answer: Answer) -> None:
    adapter, cells = answer.adapter, answer.view.cells.flatten()
    count, length = len(cells), answer.trajectory.length
    words = [Word("", (position,)) for position in POSITIONS]
    place = torch.zeros(len(words), count, dtype=torch.bool)
    place[:, 3:9] = True
    place[1] = False
    targets = build_targets(answer.trajectory, torch.tensor(POSITIONS), "remask", adapter.mask_token)
    interventions = Interventions(LAYER, cells, place, scores.other_positions(answer, words))
    found = read(adapter, answer.inputs, targets, interventions)
    prompt = list(range(count, count + 8))
    for index, position in enumerate(POSITIONS):
        token = int(answer.tokens[position])
        around = [row for row in range(count) if not place[index, row]]
        others = [row for row in range(length) if row != position]
        expected = Readings(
            visible=by_hand(answer, position, [], []),
            without_place=by_hand(answer, position, place[index].nonzero()[:, 0].tolist(), around)[token],
            without_image=by_hand(answer, position, list(range(count)), list(range(count)))[token],
            without_prompt=by_hand(answer, position, prompt, prompt)[token],
            without_others=by_hand(answer, position, others, others, in_answer=True)[token],
        )
        for name, value in vars(expected).items():
            torch.testing.assert_close(getattr(found, name)[index], value, atol=2e-3, rtol=1e-3, msg=name)


def test_an_empty_place_takes_nothing_away(answer: Answer) -> None:
    words = answer.adapter.words(answer.trajectory)[:2]
    found = scores.read_words(answer, words, answer.zeros(2), LAYER)
    torch.testing.assert_close(found.without_place, found.visible, atol=1e-4, rtol=1e-4)


def test_a_word_that_is_the_whole_answer_depends_on_no_other_word(answer: Answer) -> None:
    word = Word("", tuple(range(answer.trajectory.length)))
    assert not scores.other_positions(answer, [word]).any()
    found = scores.read_words(answer, [word], answer.zeros(1), LAYER)
    torch.testing.assert_close(found.without_others, found.visible, atol=1e-4, rtol=1e-4)


def test_the_row_that_logits_are_read_from_is_no_other_word() -> None:
    adapter = SimpleNamespace(logit_shift=1, device=torch.device("cpu"))
    trajectory: Any = SimpleNamespace(tokens=torch.zeros(6), length=5)
    answer: Any = SimpleNamespace(adapter=adapter, trajectory=trajectory, positions=positions_of)
    others = scores.other_positions(answer, [Word("", (2, 3)), Word("", (0,))])
    assert others.int().tolist() == [[1, 0, 0, 0, 1, 0], [1, 1, 0, 0, 1, 0], [0, 1, 1, 1, 1, 0]]


def test_rows_of_image_and_prompt() -> None:
    """Newline tokens between the rows of a view belong to the image; what follows the last view is the prompt."""
    boxes = torch.zeros(2, 2, 4)
    base = ImageView("base", torch.tensor([[1, 2], [3, 4]]), boxes)
    tiles = ImageView("grid", torch.tensor([[6, 7], [9, 10]]), boxes)  # 8 is a newline token
    inputs = Inputs(np.zeros((4, 4, 3), np.uint8), "", (base, tiles), 4)
    assert inputs.image_rows.tolist() == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    adapter = TinyAdapter()
    assert adapter.prompt_rows(inputs, 14).tolist() == [0, 5, 11, 12, 13]  # type: ignore[arg-type]
    adapter.logit_shift = 1
    assert adapter.prompt_rows(inputs, 14).tolist() == [0, 5, 11, 12]  # type: ignore[arg-type]


def test_alternatives_are_the_most_confident_tokens(answer: Answer) -> None:
    explanation = Explainer(answer.adapter).explain(answer.inputs.image, targets=[2, 3])
    for target in explanation.targets:
        (position,) = target.positions
        expected = by_hand(answer, position, [], []).exp()
        (alternatives,) = target.alternatives
        probabilities = [alternative.probability for alternative in alternatives]
        assert probabilities == sorted(probabilities, reverse=True)
        assert len(probabilities) == scores.TOP
        assert probabilities == pytest.approx([float(expected[item.id]) for item in alternatives], abs=1e-4)
        assert probabilities == pytest.approx(expected.topk(scores.TOP).values.tolist(), abs=1e-4)
        for item in alternatives:
            assert item.text == answer.adapter.decode(torch.tensor([item.id]))


def test_image_share_tells_a_wrong_color_from_a_right_one(explainer: Explainer) -> None:
    rng, right, wrong = np.random.default_rng(11), [], []
    adapter = explainer.adapter
    for _ in range(6):
        scene = scenes.sample_scene(rng)
        words = list(scenes.caption(scene).answer)
        for swapped, shares in ((False, right), (True, wrong)):
            color = scene.objects[0].color
            words[2] = next(c for c in scenes.COLORS if c != color) if swapped else color
            explanation = explainer.explain(scene.image, targets=[2], answer=adapter.encode_answer(" ".join(words)))
            shares.append(explanation.targets[0].image_share)
    assert min(right) > max(wrong)


def test_without_scores(explainer: Explainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = scenes.sample_scene(np.random.default_rng(3)).image
    scored = explainer.explain(image)
    monkeypatch.setattr(scores, "read_words", None)  # no pass may run
    explanation = explainer.explain(image, scores=False)
    stream = explainer.stream(image)
    assert len(list(stream)) > 0
    streamed = stream.explanation(scores=False)
    for unscored in (explanation, streamed):
        for target in unscored.targets:
            assert [getattr(target, name) for name in SCORES] == [None] * 4
            assert target.alternatives == ()
    assert [(t.peak, t.spread) for t in explanation.targets] == [(t.peak, t.spread) for t in scored.targets]
    loaded = Explanation.load(explanation.save(tmp_path / "explanation"))
    assert loaded.targets == explanation.targets
    assert explanation.contact_sheet().size > (0, 0)
    assert "<html" in explanation.to_html()
    with pytest.raises(TypeError, match="explain: scores must be True or False, got 1"):
        explainer.explain(image, scores=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Stream.explanation: scores must be True or False, got None"):
        stream.explanation(scores=None)  # type: ignore[arg-type]


def test_scores_are_saved_and_loaded(explainer: Explainer, tmp_path: Path) -> None:
    explanation = explainer.explain(scenes.sample_scene(np.random.default_rng(4)).image, targets=[1, 2])
    loaded = Explanation.load(explanation.save(tmp_path / "explanation"))
    assert loaded.targets == explanation.targets
    assert loaded.provenance == explanation.provenance
    record = tmp_path / "explanation" / "explanation.json"
    content = json.loads(record.read_text("utf-8"))
    content["targets"][0]["alternatives"] *= 2
    record.write_text(json.dumps(content), "utf-8")
    with pytest.raises(ValueError, match=r"targets\[0\].alternatives must be empty or of 1 positions, got 2"):
        Explanation.load(tmp_path / "explanation")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_says_what_it_claims(explainer: Explainer, method: str) -> None:
    claim = METHODS[method].claim
    assert claim.output
    assert claim.score
    assert not claim.score.endswith(".")
    if method == "llava_cam_smooth":  # 50 passes
        return
    image = scenes.sample_scene(np.random.default_rng(6), 64, 64, 1).image
    explanation = explainer.explain(image, targets=[1], method=method, scores=method == "default")
    claims: Any = explanation.provenance["claims"]
    assert list(claims) == ["output", "features", "process", "held_fixed", "score"]
    assert all(point["text"].endswith(".") for point in claims.values())
    assert claims == json.loads(json.dumps(claims))
    assert claims["process"]["attention"] == "prefix"
    assert claims["process"]["state"] == claim.state
    assert ("image_share" in claims["score"]) == (method == "default")


def test_claims_follow_the_settings() -> None:
    default = METHODS["default"]
    assert "log-probability" in default.claim.output
    assert "layer_cam" in default.claim.score
    changed = replace(default, objective="logit", state="committed", depth=1)  # type: ignore[type-var]
    assert changed.claim.output == "the logit of each token"
    assert changed.claim.state == "committed"
    assert "1 layers above" in changed.claim.score


def test_claims_name_contrasts() -> None:
    explainer = Explainer.from_pretrained("tiny")

    def output(*targets: str | Contrast) -> Any:
        claims: Any = explainer.explain(sample_image(), targets=targets, answer="a red ring", scores=False).provenance[
            "claims"
        ]
        return claims["output"]

    compared, plain = output("a", Contrast("Red", "blue")), output("a")
    assert compared["contrasts"] == ["red > blue"]
    assert "less that over the other word" in compared["text"]
    assert "contrasts" not in plain
    assert compared["text"].startswith(plain["text"])
