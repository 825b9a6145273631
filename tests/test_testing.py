"""`check_adapter` passes sound adapters, and finds and names the faults of others."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcam_fast import models
from dcam_fast.models.adapter import DEFAULT_GENERATION, Hidden, ImageView, Inputs, Trajectory, Word
from dcam_fast.models.generation import Generation
from dcam_fast.models.tiny.adapter import TinyAdapter, TinyInputs
from dcam_fast.testing import ConformanceError, check_adapter

IMAGE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)


@pytest.mark.parametrize("attention", ["prefix", "joint"])
def test_tiny_is_sound(attention: str) -> None:
    check_adapter(models.load("tiny", attention=attention))


@pytest.mark.parametrize("window", [64, 16])
def test_diffusion_gemma_is_sound(window: int) -> None:
    pytest.importorskip("transformers.models.diffusion_gemma", reason="this transformers is older than the family")
    sys.path.insert(0, str(Path(__file__).parent / "models"))
    import gemma

    check_adapter(gemma.make_adapter(window))


def findings(adapter: TinyAdapter, image: NDArray[np.uint8] | None = IMAGE) -> str:
    with pytest.raises(ConformanceError) as caught:
        check_adapter(adapter, image)
    assert str(caught.value).count("\n") >= len(caught.value.findings)
    return str(caught.value)


class BrokenView(TinyAdapter):
    """Its view is the right one after `change`."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change = change

    def encode(self, image: NDArray[np.uint8], prompt: str) -> TinyInputs:
        inputs = super().encode(image, prompt)
        return replace(inputs, views=(self.change(inputs.views[0]),))


def swapped(view: ImageView) -> ImageView:
    return replace(view, boxes=view.boxes[..., [1, 0, 3, 2]])


VIEWS = {
    "the pixels of a cell's box must change that cell's hidden state": lambda v: replace(v, cells=v.cells.flip(1)),
    "cells must be rows of the image stream": lambda v: replace(v, cells=v.cells + 10_000),
    "cells must be distinct": lambda v: replace(v, cells=v.cells.clamp(min=3)),
    r"cells must be int64 [h, w]": lambda v: replace(v, cells=v.cells.flatten()),
    "boxes must be float32": lambda v: replace(v, boxes=v.boxes.double()),
    "x0 < x1 and y0 < y1": lambda v: replace(v, boxes=v.boxes[..., [2, 1, 0, 3]]),
    "got some outside it": lambda v: replace(v, boxes=v.boxes * 2),
    "go right along a row": lambda v: replace(v, boxes=v.boxes.flip(0)),
    "go right along a row and down": swapped,
}


@pytest.mark.parametrize("message", VIEWS)
def test_broken_views(message: str) -> None:
    assert message in findings(BrokenView(VIEWS[message]))


class NoViews(TinyAdapter):
    def encode(self, image: NDArray[np.uint8], prompt: str) -> TinyInputs:
        return replace(super().encode(image, prompt), views=())


class Blind(TinyAdapter):
    def embed(self, inputs: TinyInputs, canvases: Tensor) -> Hidden:
        hidden = super().embed(inputs, canvases)
        return Hidden(torch.zeros_like(hidden.image), hidden.canvas)


class BrokenTrajectory(TinyAdapter):
    def generate(self, inputs: TinyInputs, generation: Generation = DEFAULT_GENERATION) -> Trajectory:
        return self.wrong(super().generate(inputs, generation))

    def wrong(self, trajectory: Trajectory) -> Trajectory:
        raise NotImplementedError


class TooLong(BrokenTrajectory):
    def wrong(self, trajectory: Trajectory) -> Trajectory:
        return replace(trajectory, length=999)


class StillMasked(BrokenTrajectory):
    def wrong(self, trajectory: Trajectory) -> Trajectory:
        return replace(trajectory, tokens=trajectory.tokens.index_fill(0, torch.tensor([1]), self.mask_token))


class NeverCommitted(BrokenTrajectory):
    def wrong(self, trajectory: Trajectory) -> Trajectory:
        return replace(trajectory, steps=trajectory.steps - 5)


class OtherAnswer(BrokenTrajectory):
    def wrong(self, trajectory: Trajectory) -> Trajectory:
        return replace(trajectory, tokens=trajectory.tokens.roll(1))


class WrongSteps(BrokenTrajectory):
    def wrong(self, trajectory: Trajectory) -> Trajectory:
        return replace(trajectory, steps=trajectory.steps.roll(1).int())


class Restless(TinyAdapter):
    calls = 0

    def generate(self, inputs: TinyInputs, generation: Generation = DEFAULT_GENERATION) -> Trajectory:
        self.calls += 1
        trajectory = super().generate(inputs, generation)
        return replace(trajectory, tokens=trajectory.tokens + self.calls - 1)


class TakesBack(TinyAdapter):
    def denoise(self, inputs: TinyInputs, generation: Generation = DEFAULT_GENERATION) -> Iterator[Trajectory]:
        states = list(super().denoise(inputs, generation))
        yield states[-1]
        yield states[0]

    def generate(self, inputs: TinyInputs, generation: Generation = DEFAULT_GENERATION) -> Trajectory:
        return next(iter(self.denoise(inputs, generation)))


class LosesWords(TinyAdapter):
    def words(self, trajectory: Trajectory) -> tuple[Word, ...]:
        return super().words(trajectory)[1:]


class Trains(TinyAdapter):
    def __init__(self) -> None:
        super().__init__()
        self.model.train().requires_grad_()


class Meddles(TinyAdapter):
    def encode(self, image: NDArray[np.uint8], prompt: str) -> TinyInputs:
        with torch.no_grad():
            self.model.norm.weight.mul_(1.001)
        return super().encode(image, prompt)


class AllowsTheLast(TinyAdapter):
    def check_layers(self, layers: tuple[int, ...]) -> None:
        """Accepts any layers."""


class NoGradient(TinyAdapter):
    def prefix_layer(self, index: int, image: Tensor, inputs: TinyInputs) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        image, (k, v) = super().prefix_layer(index, image, inputs)
        return image.detach() + 0 * image, (k.detach() + 0 * k, v.detach() + 0 * v)


class NotANumber(TinyAdapter):
    def logits(self, hidden: Hidden, rows: Tensor, inputs: TinyInputs) -> Tensor:
        logits = super().logits(hidden, rows, inputs)
        return logits * torch.where(hidden.canvas.sum() > -1e9, torch.nan, 1.0)  # type: ignore[union-attr]


class HalfTheGradient(TinyAdapter):
    """Its two streams differ from its `layer`."""

    def layer(self, index: int, hidden: Hidden, inputs: TinyInputs) -> Hidden:
        after = super().layer(index, hidden, inputs)
        return Hidden(after.image * 1.01, after.canvas)


class HidesItsStreams(TinyAdapter):
    def __init__(self) -> None:
        super().__init__()
        self.has_two_streams = False


class SeesItsNeighbors(TinyAdapter):
    def canvas_layer(self, index: int, canvas: Tensor, context: Any, inputs: TinyInputs) -> Tensor:
        after = super().canvas_layer(index, canvas, context, inputs)
        return after + after.mean(0, keepdim=True)


class Double(TinyAdapter):
    def logits(self, hidden: Hidden, rows: Tensor, inputs: TinyInputs) -> Tensor:
        return super().logits(hidden, rows, inputs).double()


class Fails(TinyAdapter):
    def words(self, trajectory: Trajectory) -> tuple[Word, ...]:
        raise KeyError("no such word")


class CannotEncode(TinyAdapter):
    def encode(self, image: NDArray[np.uint8], prompt: str) -> Any:
        raise RuntimeError("out of ink")


BROKEN: list[tuple[type[TinyAdapter], str]] = [
    (NoViews, "views must be at least one grid"),
    (Blind, "must change its hidden state, got no change"),
    (TooLong, "length must be 0 to"),
    (StillMasked, "must not be the mask token"),
    (NeverCommitted, "steps must be 0 or more"),
    (OtherAnswer, "the model must prefer that token"),
    (OtherAnswer, "the last trajectory must be that of generate"),
    (WrongSteps, "tokens and steps must be int64"),
    (Restless, "the same question must have the same answer"),
    (TakesBack, "a committed token must stay committed"),
    (LosesWords, "words: positions must be"),
    (Meddles, "encode and generate must leave the model as it was, got changes: norm.weight"),
    (AllowsTheLast, "must be rejected, got no error"),
    (NoGradient, "gradients must reach the image cells, got zeros"),
    (NotANumber, "gradients at the image cells must be finite"),
    (HalfTheGradient, "must be those of the full graph"),
    (HalfTheGradient, "must do together what layer does"),
    (HidesItsStreams, "has_two_streams must be True exactly where"),
    (SeesItsNeighbors, "the logits that each has alone"),
    (Double, "logits must be float32"),
    (Fails, "words: must not fail, got KeyError('no such word')"),
    (CannotEncode, "encode and generate must work, got RuntimeError('out of ink')"),
]


@pytest.mark.parametrize(("broken", "message"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_faults_are_found_and_named(broken: type[TinyAdapter], message: str) -> None:
    assert message in findings(broken())


def test_all_findings_are_listed() -> None:
    class Both(LosesWords, AllowsTheLast):
        pass

    with pytest.raises(ConformanceError) as caught:
        check_adapter(Both(), IMAGE)
    assert len(caught.value.findings) == 5
    assert isinstance(caught.value.findings[0], str)
    assert "tiny: 5 promises" in str(caught.value)


def test_a_model_in_training_is_sound_and_stays_in_training() -> None:
    adapter = Trains()
    check_adapter(adapter, IMAGE)
    assert all(module.training for module in adapter.model.modules())
    assert all(parameter.requires_grad for parameter in adapter.model.parameters())


def test_inputs_are_not_modified() -> None:
    adapter = models.load("tiny")
    before: Inputs = adapter.encode(IMAGE, adapter.default_prompt)
    check_adapter(adapter, IMAGE)
    assert before.views[0].cells.equal(adapter.encode(IMAGE, adapter.default_prompt).views[0].cells)
