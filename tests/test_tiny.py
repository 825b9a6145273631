"""The embedded model: scenes, words, pixels, generation, saving, and a smoke test of its training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dcam_fast import scenes
from dcam_fast.models.adapter import AdapterError, Hidden
from dcam_fast.models.generation import Generation
from dcam_fast.models.tiny import accuracy
from dcam_fast.models.tiny.adapter import WEIGHTS, TinyAdapter
from dcam_fast.models.tiny.modeling import Attention, TinyForMaskedDiffusion
from dcam_fast.models.tiny.processing import (
    EOS,
    MASK,
    PAD,
    VOCABULARY,
    TinyImageProcessor,
    build_tokenizer,
    encode_words,
)
from dcam_fast.models.tiny.train import learning_rate, mask_answers, train
from dcam_fast.scenes.textures import HARD_TEXTURES, background


@pytest.fixture(scope="module")
def model() -> TinyForMaskedDiffusion:
    return TinyAdapter().model


@pytest.mark.parametrize("attention", ["prefix", "joint"])
@torch.no_grad()
def test_last_layer_computes_the_rows_that_are_read(attention: Attention) -> None:
    adapter = TinyAdapter(attention=attention)
    inputs = adapter.encode(scenes.sample_scene(np.random.default_rng(2), 64, 64).image, adapter.default_prompt)
    canvases = torch.randint(len(VOCABULARY), (2, 36), generator=torch.Generator().manual_seed(0))
    rows, index = torch.tensor([[3, 0], [7, 35]]), adapter.num_layers - 1
    hidden = adapter.embed(inputs, canvases)
    for lower in range(index):
        hidden = adapter.layer(lower, hidden, inputs)
    if attention == "joint":
        expected = Hidden(adapter.model.layers()[index](hidden.image, inputs.rotary_joint))
        given = adapter.layer(index, hidden, inputs).image
        torch.testing.assert_close(given, expected.image[:, -36:], atol=1e-4, rtol=1e-4)
    else:
        expected = adapter.layer(index, hidden, inputs)
    torch.testing.assert_close(
        adapter.answer_logits(hidden, rows, inputs), adapter.logits(expected, rows, inputs), atol=1e-4, rtol=1e-4
    )


def encode(scene: scenes.Scene, prompt: str = scenes.CAPTION_PROMPT) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = TinyImageProcessor()(scene.image)
    return pixels, torch.tensor([encode_words(prompt.split(), 8, PAD)])


# scenes


def test_scenes_are_reproducible_and_masks_fit() -> None:
    first, second = (scenes.sample_scene(np.random.default_rng(3), 96, 128, 4) for _ in range(2))
    assert np.array_equal(first.image, second.image)
    assert first.image.shape == (96, 128, 3)
    assert [item.x for item in first.objects] == sorted(item.x for item in first.objects)
    covered = np.sum([item.mask for item in first.objects], axis=0)
    assert covered.max() == 1, "objects do not overlap"
    for item in first.objects:
        assert item.mask.shape == (96, 128)
        assert item.mask.sum() > 50
        painted = first.image[item.mask].mean(0)
        nearest = min(scenes.COLORS, key=lambda name: float(np.abs(painted - scenes.COLORS[name]).sum()))
        assert nearest == item.color


def test_hard_scenes_overlap_and_every_object_stays_visible() -> None:
    rng = np.random.default_rng(7)
    drawn = [scenes.sample_scene(rng, hard=True) for _ in range(60)]
    assert {len(scene.objects) for scene in drawn} >= {2, 4, 6}
    assert {scene.background for scene in drawn} == set(HARD_TEXTURES)
    hidden = alike = beside_larger = 0
    for scene in drawn:
        assert np.sum([item.mask for item in scene.objects], axis=0).max() == 1, "a pixel shows one object"
        assert [item.x for item in scene.objects] == sorted(item.x for item in scene.objects)
        for item in scene.objects:
            assert item.mask.sum() > 50
            others = [other for other in scene.objects if other is not item]
            same = [other for other in others if item.shape == other.shape or item.color == other.color]
            alike += bool(same)
            beside_larger += any(item.size == "small" and other.size == "large" for other in same)
            hidden += any(np.hypot(item.x - o.x, item.y - o.y) < 0.9 * (item.radius + o.radius) for o in others)
    assert min(hidden, alike, beside_larger) >= 40
    with pytest.raises(ValueError, match="sample_scene: objects must be 1 to 6, got 7"):
        scenes.sample_scene(rng, objects=7, hard=True)


def test_masks_have_only_visible_pixels() -> None:
    rng = np.random.default_rng(7)
    for _ in range(20):
        scene = scenes.sample_scene(rng, hard=True)
        for item in scene.objects:
            painted = scene.image[item.mask].astype(float)
            nearest = min(scenes.COLORS, key=lambda name: float(np.abs(painted - scenes.COLORS[name]).sum()))
            assert nearest == item.color


@pytest.mark.parametrize("texture", HARD_TEXTURES)
def test_backgrounds_are_reproducible(texture: str) -> None:
    drawn = background(np.random.default_rng(0), texture, 52, 97)
    assert drawn.shape == (52, 97, 3)
    assert drawn.dtype == np.float32
    assert np.array_equal(drawn, background(np.random.default_rng(0), texture, 52, 97))
    assert (np.ptp(drawn[..., 0]) > 20) == (texture != "plain")


def test_background_checks_its_texture() -> None:
    with pytest.raises(ValueError, match=r"background: texture must be one of plain, .*, cluttered, got 'paisley'"):
        background(np.random.default_rng(0), "paisley", 64, 64)


def test_relations_name_the_neighbor() -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        scene = scenes.sample_scene(rng, hard=True)
        for kind, step in (("left", -1), ("right", 1)):
            dialogue = scenes.question(rng, scene, kind)
            if dialogue is None:
                continue
            shapes = [item.shape for item in scene.objects]
            place = shapes.index(dialogue.prompt.split()[5]) + step
            if 0 <= place < len(shapes):
                item = scene.objects[place]
                assert dialogue.answer == ("a", item.size, item.color, item.shape)
                assert dialogue.object_index == (-1, place, place, place)
            else:
                assert dialogue.answer == ("there", "is", "no", "object")


def test_every_shape_can_be_drawn() -> None:
    drawn = set()
    rng = np.random.default_rng(0)
    while drawn != set(scenes.SHAPES):
        drawn |= {item.shape for item in scenes.sample_scene(rng).objects}


def test_caption_words_name_their_objects() -> None:
    scene = scenes.sample_scene(np.random.default_rng(8), objects=3)
    dialogue = scenes.caption(scene)
    assert len(dialogue.answer) == len(dialogue.object_index) == 4 * 3 + 2 + 4
    assert dialogue.answer[4] == ","
    assert dialogue.answer[9] == "and"
    for word, index in zip(dialogue.answer, dialogue.object_index, strict=True):
        if index >= 0:
            item = scene.objects[index]
            assert word in (item.size, item.color, item.shape)


@pytest.mark.parametrize("kind", scenes.QUESTIONS + scenes.RELATIONS)
def test_questions_use_the_vocabulary(kind: str) -> None:
    rng = np.random.default_rng(1)
    dialogues = [scenes.question(rng, scenes.sample_scene(rng), kind) for _ in range(40)]
    for dialogue in dialogues:
        if dialogue is not None:
            assert len(dialogue.answer) == len(dialogue.object_index)
            assert set(dialogue.prompt.split()) | set(dialogue.answer) <= set(VOCABULARY)
            assert len(dialogue.prompt.split()) <= 8
    assert any(dialogues)


def test_scenes_check_their_arguments() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="sample_scene: height and width must be at least 52 pixels, got 40x128"):
        scenes.sample_scene(rng, 40, 128)
    with pytest.raises(ValueError, match="sample_scene: objects must be 1 to 4, got 5"):
        scenes.sample_scene(rng, objects=5)
    with pytest.raises(ValueError, match=r"question: kind must be one of .*, got 'why'"):
        scenes.question(rng, scenes.sample_scene(rng), "why")


# words and pixels


def test_tokenizer_knows_every_word() -> None:
    tokenizer = build_tokenizer()
    assert tokenizer.encode("What color is the star?").ids == [
        VOCABULARY.index(word) for word in ["what", "color", "is", "the", "star", "?"]
    ]
    assert tokenizer.decode([VOCABULARY.index(word) for word in ("a", "small", "ring", ",", "a")]) == "a small ring, a"


@pytest.mark.parametrize(
    ("size", "canvas"),
    [
        ((128, 128), (128, 128)),
        ((480, 640), (96, 128)),
        ((1000, 10), (128, 48)),
        ((1, 1), (128, 128)),
        ((64, 64), (128, 128)),
    ],
)
def test_canvas_size(size: tuple[int, int], canvas: tuple[int, int]) -> None:
    pixels = TinyImageProcessor()(np.zeros((*size, 3), np.uint8))
    assert tuple(pixels.shape[2:]) == canvas
    assert pixels.unique().tolist() == [-1.0]


# the model


def test_weights_are_small_and_load(tmp_path: Path, model: TinyForMaskedDiffusion) -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) <= 8e6
    model.save_pretrained(tmp_path)
    again = TinyForMaskedDiffusion.from_pretrained(tmp_path)
    for (name, first), second in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(first, second), name


def test_cached_prefix_equals_packed_forward(model: TinyForMaskedDiffusion) -> None:
    """Generation's two streams and training's packed sequence are the same model."""
    adapter = TinyAdapter()
    scene = scenes.sample_scene(np.random.default_rng(2), 96, 112, 2)
    pixels, prompt = encode(scene)
    canvases = torch.randint(0, len(VOCABULARY), (1, 3, 36), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        packed = model(pixels, prompt, canvases)
        hidden = adapter.embed(inputs := adapter.encode(scene.image, scenes.CAPTION_PROMPT), canvases[0])
        for index in range(adapter.num_layers):
            hidden = adapter.layer(index, hidden, inputs)
        streams = adapter.logits(hidden, torch.arange(36).expand(3, -1), inputs)
    torch.testing.assert_close(streams, packed[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", ["prefix", "joint"])
def test_generation_records_its_trajectory(model: TinyForMaskedDiffusion, attention: str) -> None:
    pixels, prompt = encode(scenes.sample_scene(np.random.default_rng(4)))
    whole = model.generate(pixels, prompt, attention=attention)  # type: ignore[arg-type]
    assert MASK not in whole.tokens
    assert sorted(whole.steps[0].tolist()) == list(range(36)), "one token a step"
    few = model.generate(pixels, prompt, Generation(12, 6), attention)  # type: ignore[arg-type]
    steps = few.steps[0].view(6, 6)
    for block in range(6):
        assert sorted(steps[block].tolist()) == [2 * block] * 3 + [2 * block + 1] * 3, "blocks from left to right"


def test_generation_checks_its_arguments(model: TinyForMaskedDiffusion) -> None:
    pixels, prompt = encode(scenes.sample_scene(np.random.default_rng(4)))
    with pytest.raises(ValueError, match="generate: block_length must be a divisor of 36, got 7"):
        model.generate(pixels, prompt, Generation(36, 7))
    with pytest.raises(ValueError, match="generate: steps must be a multiple of 6 from 6 to 36, got 8"):
        model.generate(pixels, prompt, Generation(8, 6))
    with pytest.raises(ValueError, match=r"forward: canvases must be \[B, 1, L\] with joint attention, got K = 2"):
        model(pixels, prompt, torch.zeros(1, 2, 36, dtype=torch.int64), "joint")


def test_prompts_are_checked() -> None:
    adapter = TinyAdapter()
    image = np.zeros((64, 64, 3), np.uint8)
    for prompt in ("what is the zebra ?", "", "   "):
        with pytest.raises(AdapterError, match="tiny: prompt must be made of the words it was trained on"):
            adapter.encode(image, prompt)
    with pytest.raises(
        AdapterError, match="tiny: prompt must not have the model's reserved token <mask>, got 'what is <mask>'"
    ):
        adapter.encode(image, "what is <mask>")
    with pytest.raises(AdapterError, match="tiny: prompt must be at most 8 tokens, got 9"):
        adapter.encode(image, "the " * 9)
    with pytest.raises(AdapterError, match="tiny: attention must be 'prefix' or 'joint', got 'causal'"):
        TinyAdapter(attention="causal")  # type: ignore[arg-type]


def test_answers_about_held_out_scenes_are_correct(model: TinyForMaskedDiffusion) -> None:
    """Fails for a broken weight file, tokenizer or image path; `accuracy` measures on 500 scenes."""
    for hard, floor in ((False, 0.8), (True, 0.6)):
        drawn = accuracy.held_out_scenes(40, hard=hard)
        for kind in ("caption", "color", "object"):
            right = accuracy.exact_matches(model, accuracy.dialogues(drawn, kind), 12, "prefix")
            assert sum(right) / len(right) >= floor, (kind, hard)


# training


def test_learning_rate_warms_up_and_decays() -> None:
    assert learning_rate(0, 1000) == pytest.approx(1 / 50)
    assert learning_rate(500, 1000) == 1
    assert learning_rate(800, 1000) == pytest.approx(0.5)
    assert learning_rate(999, 1000) == 0.02


def test_loss_weights_are_unbiased() -> None:
    answers = torch.full((2000, 24), 30)
    canvases, weights = mask_answers(answers, 4, torch.Generator().manual_seed(0))
    assert canvases.shape == weights.shape == (2000, 4, 24)
    assert bool(((canvases == MASK) == (weights > 0)).all())
    assert float(weights.mean()) == pytest.approx(1, abs=0.03), "1 / rate makes the loss unbiased"


def test_training_resumes(tmp_path: Path) -> None:
    path = train(tmp_path, scale=0.001)
    model = TinyForMaskedDiffusion.from_pretrained(path)
    assert model.config.vocab_size == len(VOCABULARY)
    steps = [
        torch.load(tmp_path / f"{name}.pt", weights_only=False)["step"] for name in ("denoiser", "harder", "relations")
    ]
    assert steps == [3, 2, 2]
    before = (path / "model.safetensors").read_bytes()
    train(tmp_path, scale=0.001)
    assert (path / "model.safetensors").read_bytes() == before, "a finished run is left as it is"
    with pytest.raises(ValueError, match="train: scale must be above 0 and at most 1, got 2"):
        train(tmp_path, scale=2)


def test_answer_ends_at_the_padding() -> None:
    adapter = TinyAdapter()
    inputs = adapter.encode(scenes.sample_scene(np.random.default_rng(4), objects=1).image, "how many objects ?")
    trajectory = adapter.generate(inputs)
    assert trajectory.tokens[trajectory.length] == EOS
    assert len(adapter.words(trajectory)) == trajectory.length < 36
