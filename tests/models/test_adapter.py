"""The adapter interface: what its base classes implement, and the examples in its docstrings."""

from __future__ import annotations

import doctest
import importlib

import numpy as np
import pytest
import torch

from dcam_fast import models
from dcam_fast.models.adapter import AdapterError, Hidden, Trajectory, boxes_between, even_boxes
from dcam_fast.models.tiny.adapter import TinyAdapter

MODULES = ("", ".adapter", ".stepping", ".text", ".tiny.adapter", ".unmasking")


@pytest.mark.parametrize("name", ["dcam_fast.testing", *(f"dcam_fast.models{module}" for module in MODULES)])
def test_examples_in_docstrings(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted
    assert not results.failed


def test_reprs_show_shapes_instead_of_numbers() -> None:
    adapter = models.load("tiny")
    inputs = adapter.encode(np.zeros((40, 60, 3), np.uint8), adapter.default_prompt)
    text = repr(inputs)
    assert text.startswith("TinyInputs(image=uint8[40, 60, 3], prompt='describe the image', views=(ImageView(name=")
    assert "rotary_prefix=(float32[" in text
    assert "tensor(" not in text
    trajectory = Trajectory(torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 2)
    assert repr(trajectory) == "Trajectory(tokens=int64[3], steps=int64[3], length=2, canvases=None)"


def test_layer_needs_a_canvas_stream_or_an_override() -> None:
    adapter = TinyAdapter()
    inputs = adapter.encode(np.zeros((64, 64, 3), np.uint8), adapter.default_prompt)
    hidden = adapter.embed(inputs, torch.zeros(1, 36, dtype=torch.int64))
    with pytest.raises(AdapterError, match="layer: hidden must have a canvas stream, got none"):
        super(TinyAdapter, adapter).layer(0, Hidden(hidden.image), inputs)


def test_even_boxes_tile_the_image() -> None:
    boxes = even_boxes((7, 10), (2, 3))
    assert boxes.shape == (2, 3, 4)
    assert boxes[0, 0, :2].tolist() == [0, 0]
    assert boxes[-1, -1, 2:].tolist() == [10, 7]
    assert boxes[:, :-1, 2].equal(boxes[:, 1:, 0])
    assert boxes[:-1, :, 3].equal(boxes[1:, :, 1])


def test_boxes_between_edges_may_have_gaps() -> None:
    x, y = (torch.tensor([0.0, 5.0]), torch.tensor([4.0, 9.0])), (torch.tensor([1.0]), torch.tensor([3.0]))
    assert boxes_between(x, y).tolist() == [[[0, 1, 4, 3], [5, 1, 9, 3]]]
