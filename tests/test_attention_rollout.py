"""Attention rollout by hand, and on a model against separately computed attention matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dcam_fast import Explainer, scenes
from dcam_fast.attribution.answer import Answer
from dcam_fast.attribution.answer_states import canvases
from dcam_fast.attribution.methods.attention_rollout import AttentionRollout, roll_out, weights
from dcam_fast.models import AdapterError
from dcam_fast.models.adapter import Hidden, Word
from dcam_fast.models.tiny.adapter import TinyAdapter, TinyInputs

PICTURE = scenes.sample_scene(np.random.default_rng(21), 64, 80, 2).image


def test_by_hand() -> None:
    """Three rows, two layers: row 2 looks at row 0 above, which looks at row 1 below."""
    lower = torch.tensor([[0.0, 1, 0], [0, 1, 0], [0, 0, 1]])
    upper = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]])
    shares = roll_out(torch.tensor([[0.0, 0, 1]]), [lower, upper])
    # half of row 2 stays, half is row 0's; below, half of that is row 1's
    assert shares.tolist() == [[0.25, 0.25, 0.5]]


@pytest.mark.parametrize("case", ["plain", "causal", "bool mask", "float mask", "scale", "grouped"])
def test_weights_are_those_of_the_call(case: str) -> None:
    random = torch.Generator().manual_seed(5)
    q, k = torch.randn(2, 4, 6, 8, generator=random), torch.randn(2, 4, 6, 8, generator=random)
    mask = torch.rand(6, 6, generator=random)
    mask.fill_diagonal_(1)
    options: dict[str, object] = {
        "plain": {},
        "causal": {"is_causal": True},
        "bool mask": {"attn_mask": mask > 0.5},
        "float mask": {"attn_mask": mask},
        "scale": {"scale": 0.7},
        "grouped": {"enable_gqa": True},
    }[case]  # type: ignore[assignment]
    if case == "grouped":
        k = k[:, :2]
    # the identity as values shows the weights
    v = torch.eye(6).expand(*k.shape[:2], -1, -1)
    expected = F.scaled_dot_product_attention(q, k, v, **options).mean(1)  # type: ignore[arg-type]
    torch.testing.assert_close(weights(q, k, v, **options), expected)  # type: ignore[arg-type]


def attention_of(adapter: TinyAdapter, inputs: TinyInputs, canvas: Tensor) -> list[Tensor]:
    """Attention from the projections of the layers: the queries of each row with the keys that are visible to it."""
    hidden, matrices = adapter.embed(inputs, canvas), []
    for index, layer in enumerate(adapter.model.layers()):
        if hidden.canvas is None:
            q, k, _ = layer.project(hidden.image, inputs.rotary_joint)
            matrices.append((q @ k.transpose(-1, -2)).softmax(-1)[0].mean(0))
        else:
            prefix = hidden.image.shape[1]
            q, k, _ = layer.project(hidden.image, inputs.rotary_prefix)
            own_q, own_k, _ = layer.project(hidden.canvas, inputs.rotary_canvas)
            keys = torch.cat((k, own_k), 2)
            scores = torch.cat((q, own_q), 2) @ keys.transpose(-1, -2)
            scores[:, :, :prefix, prefix:] = -torch.inf
            matrices.append(scores.softmax(-1)[0].mean(0))
        hidden = adapter.layer(index, hidden, inputs)
    return matrices


@pytest.mark.parametrize("layers", [None, (2,)])
@pytest.mark.parametrize("attention", ["prefix", "joint"])
@torch.no_grad()
def test_on_the_embedded_model(attention: str, layers: tuple[int, ...] | None) -> None:
    adapter = TinyAdapter(attention=attention)  # type: ignore[arg-type]
    inputs = adapter.encode(PICTURE, adapter.default_prompt)
    trajectory = adapter.generate(inputs)
    words = [Word("", (1,)), Word("", (2, 3))]
    answer = Answer(adapter, inputs, trajectory)
    view = answer.view
    got = AttentionRollout(target_layers=layers).raw_maps(answer, words)
    expected = []
    for position in (1, 2, 3):
        canvas = canvases(trajectory, torch.tensor([position]), "remask", adapter.mask_token)
        matrices = attention_of(adapter, inputs, canvas)[0 if layers is None else layers[0] + 1 :]
        length = adapter.model.config.answer_length
        row = torch.zeros(1, len(matrices[0]))
        row[0, len(matrices[0]) - length + position] = 1
        expected.append(roll_out(row, matrices)[0, view.cells.flatten()].view(view.cells.shape))
    torch.testing.assert_close(got[0], expected[0], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(got[1], (expected[1] + expected[2]) / 2, rtol=1e-4, atol=1e-7)
    assert bool((got >= 0).all())
    assert bool((got.sum((1, 2)) < 1).all())
    assert AttentionRollout().raw_maps(answer, []).shape == (0, *view.cells.shape)


def test_other_attention_functions_are_rejected() -> None:
    class Eager(TinyAdapter):
        def layer(self, index: int, hidden: Hidden, inputs: TinyInputs) -> Hidden:
            return hidden

    with pytest.raises(AdapterError, match=r"attention_rollout: model must call .*, got tiny, with 0 calls in a layer"):
        Explainer(Eager()).explain(PICTURE, method="attention_rollout")
