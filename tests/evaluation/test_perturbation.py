"""Deletion, insertion and model randomization, on a model small enough to be worked out and on the embedded one."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dcam_fast import scenes
from dcam_fast.attribution import METHODS
from dcam_fast.attribution.methods.activation import Activation
from dcam_fast.attribution.methods.random import Random
from dcam_fast.attribution.probabilities import log_probabilities
from dcam_fast.evaluation.perturbation import Perturbation, by_strength
from dcam_fast.evaluation.randomization import randomization_test, randomized_from_top, reinitialize
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

TRAJECTORY = Trajectory(torch.tensor([0, 1]), torch.tensor([0, 1]), 2)
IMAGE = np.zeros((4, 6, 3), np.uint8)  # cells of 2 x 2 pixels: 2 rows of 3
IMAGE[:2, :2], IMAGE[2:, 4:] = 200, 100


@dataclass(frozen=True)
class BrightInputs(Inputs):
    brightness: Tensor


class BrightAdapter(Adapter[BrightInputs]):
    """Two tokens at every position, whose logits are the brightness of the first and of the last cell over 100."""

    name = "bright"
    device = torch.device("cpu")
    num_layers = 2
    default_layers = (0,)
    mask_token = 5
    default_prompt = "?"

    def __init__(self) -> None:
        self.canvases: list[int] = []

    def encode(self, image: NDArray[np.uint8], prompt: str) -> BrightInputs:
        y, x = torch.meshgrid(torch.arange(0.0, 4, 2), torch.arange(0.0, 6, 2), indexing="ij")
        view = ImageView("image", torch.arange(6).view(2, 3), torch.stack((x, y, x + 2, y + 2), -1))
        brightness = torch.tensor([image[:2, :2].mean(), image[2:, 4:].mean()], dtype=torch.float32) / 100
        return BrightInputs(image, prompt, (view,), 4, brightness)

    def generate(self, inputs: BrightInputs, generation: Generation = DEFAULT_GENERATION) -> Trajectory:
        return TRAJECTORY

    def embed(self, inputs: BrightInputs, canvases: Tensor) -> Hidden:
        self.canvases.append(len(canvases))
        return Hidden(torch.zeros(1, 6, 1), torch.zeros(*canvases.shape, 1))

    def layer(self, index: int, hidden: Hidden, inputs: BrightInputs) -> Hidden:
        return hidden

    def logits(self, hidden: Hidden, rows: Tensor, inputs: BrightInputs) -> Tensor:
        return inputs.brightness.expand(*rows.shape, 2)

    def words(self, trajectory: Trajectory) -> tuple[Word, ...]:
        return (Word("left", (0,)), Word("right", (1,)))

    def decode(self, tokens: Tensor) -> str:
        return ""


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def test_curves_by_hand() -> None:
    adapter = BrightAdapter()
    inputs = adapter.encode(IMAGE, "?")
    words = adapter.words(TRAJECTORY)
    perturbation = Perturbation(adapter, inputs, TRAJECTORY, words, shares=(1 / 6, 1 / 2), batch_size=3)
    maps = torch.zeros(2, 2, 3)
    maps[:, 0, 0] = 1  # right for "left", wrong for "right"
    maps[:, 0, 1:] = 0.5
    curves = perturbation.curves(maps)
    # the fill color is the median, black; log-odds of "left": visible 2 - 1, without the first cell 0 - 1, all black 0
    visible, without, blank = sigmoid(1), sigmoid(-1), 0.5
    alone = sigmoid(2)  # only the first cell is left
    assert curves.shares.tolist() == pytest.approx([0, 1 / 6, 1 / 2, 1])
    assert curves.deletion[0].tolist() == pytest.approx([visible, without, without, blank])
    assert curves.insertion[0].tolist() == pytest.approx([blank, alone, alone, visible])
    assert curves.deletion[1].tolist() == pytest.approx([1 - visible, 1 - without, 1 - without, blank])
    assert curves.insertion[1].tolist() == pytest.approx([blank, 1 - alone, 1 - alone, 1 - visible])
    area = (visible + without) / 12 + without / 3 + (without + blank) / 4
    assert curves.deletion_area[0].item() == pytest.approx(area)


def test_phrases_have_the_geometric_mean_of_their_tokens() -> None:
    adapter = BrightAdapter()
    inputs = adapter.encode(IMAGE, "?")
    both = Perturbation(adapter, inputs, TRAJECTORY, [Word("left right", (0, 1))], shares=(1 / 6,))
    adapter.canvases.clear()
    curves = both.curves(torch.eye(6)[:1].view(1, 2, 3))
    assert adapter.canvases == [2, 2], "both tokens in one pass for each of the two images"
    assert curves.deletion[0].tolist() == pytest.approx(
        [(sigmoid(x) * sigmoid(-x)) ** 0.5 for x in (1, -1, 0)], abs=1e-6
    )


def test_equally_strong_cells_are_in_random_order() -> None:
    maps = torch.zeros(2, 4, 8)
    maps[:, 3, 7] = 1
    order = by_strength(maps)
    assert order[0, 0] == 31
    assert torch.equal(order[0], order[1])
    assert order[0].sort().values.tolist() == list(range(32))
    assert order[0, 1:].tolist() != sorted(order[0, 1:].tolist())
    ordered = torch.arange(12.0).view(1, 3, 4)
    assert by_strength(ordered)[0].tolist() == list(range(11, -1, -1))


@pytest.mark.parametrize("shares", [(0.5, 0.25), (0.0, 0.5), (1.0,), (0.5, 0.5)])
def test_shares_must_be_ascending_and_inside(shares: tuple[float, ...]) -> None:
    adapter = BrightAdapter()
    with pytest.raises(ValueError, match="Perturbation: shares must be ascending, above 0 and below 1, got"):
        Perturbation(adapter, adapter.encode(IMAGE, "?"), TRAJECTORY, adapter.words(TRAJECTORY), shares)


@pytest.fixture(scope="module", params=["prefix", "joint"])
def tiny(request: pytest.FixtureRequest) -> TinyAdapter:
    return TinyAdapter(attention=request.param)


def test_batched_images_equal_single_images(tiny: TinyAdapter) -> None:
    scene = scenes.sample_scene(np.random.default_rng(4), 64, 64, 1)
    inputs = tiny.encode(scene.image, scenes.CAPTION_PROMPT)
    trajectory = tiny.generate(inputs, Generation(8))
    perturbation = Perturbation(tiny, inputs, trajectory, tiny.words(trajectory)[1:3], shares=(1 / 4,), batch_size=4)
    images = [scene.image, scene.image[::-1].copy(), 255 - scene.image]
    queries = [(0, 0), (1, 1), (2, 0), (1, 0), (2, 1)]
    together = perturbation._run(images, queries)
    for (image, row), value in zip(queries, together, strict=True):
        targets = perturbation._rows(torch.tensor([row]))
        alone = log_probabilities(tiny, tiny.encode(images[image], inputs.prompt), targets)
        assert value.item() == pytest.approx(alone.item(), abs=1e-4)


def test_reinitialized_weights_keep_mean_and_deviation() -> None:
    layer = nn.Linear(64, 64)
    before = copy.deepcopy(layer)
    reinitialize(layer, torch.Generator().manual_seed(0))
    assert not torch.equal(layer.weight, before.weight)
    assert layer.weight.std().item() == pytest.approx(before.weight.std().item(), rel=0.05)
    assert abs(torch.corrcoef(torch.stack((layer.weight.flatten(), before.weight.flatten())))[0, 1]) < 0.05


def test_randomization_changes_maps_that_use_the_weights() -> None:
    """Layers above the target layer affect a map only through its gradient."""
    tiny = TinyAdapter()
    scene = scenes.sample_scene(np.random.default_rng(4), 96, 96, 2)
    inputs = tiny.encode(scene.image, scenes.CAPTION_PROMPT)
    trajectory = tiny.generate(inputs, Generation(8))
    weights = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    words = tiny.words(trajectory)[1:4]
    methods = {"default": METHODS["default"], "activation": Activation(), "random": Random()}
    curves = randomization_test(tiny, inputs, trajectory, words, methods)
    assert all(torch.equal(value, weights[name]) for name, value in tiny.model.state_dict().items())
    assert all(len(curve) == tiny.num_layers for curve in curves.values())
    assert curves["random"] == pytest.approx([1] * 6)
    assert curves["activation"][:3] == pytest.approx([1] * 3)  # layers 5, 4 and 3 are above layer 2
    assert max(curves["activation"][3:]) < 0.99  # the embedding of the image still shows
    assert curves["default"][0] < 0.9999
    assert max(curves["default"][2:]) < 0.6


def test_randomization_needs_the_modules_of_the_layers() -> None:
    with pytest.raises(AdapterError, match="layer_module: model must have a module for each layer, got bright"):
        next(randomized_from_top(BrightAdapter()))
