"""Attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928): how much of each image cell attention mixes into a
word, layer by layer, without gradients.

It is an approximation: it ignores values, MLPs and which word is explained. Attention weights are computed again from
each call of `scaled_dot_product_attention` that a layer makes. A family needs no code for it if its layers use that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dcam_fast.attribution.answer import Answer
from dcam_fast.attribution.answer_states import State, canvases
from dcam_fast.attribution.by_word import mean_by_word
from dcam_fast.attribution.methods.protocol import Claim
from dcam_fast.config import RAW, RefineConfig
from dcam_fast.interruption import checked
from dcam_fast.models.adapter import Adapter, AdapterError, Hidden, Inputs, Word


@dataclass(frozen=True)
class AttentionRollout:
    """Attention averaged over heads, mixed half and half with the identity for the residual stream, and multiplied from
    the last layer down.

    Attributes:
        state: the answer state of the pass (`dcam_fast.attribution.answer_states`).
        target_layers: the rollout ends at the output of the lowest of them. None: at the embeddings.
        profile: how the map is refined.
    """

    state: State = "remask"
    target_layers: tuple[int, ...] | None = None
    profile: RefineConfig = RAW

    @property
    def claim(self) -> Claim:
        """See `AttributionMethod.claim`."""
        score = "the share of the attention that comes from there, half of each row staying with the row in each layer"
        return Claim("the attention of the row that each token is read from", score, self.state)

    @torch.no_grad()
    def raw_maps(self, answer: Answer, words: Sequence[Word]) -> Tensor:
        """See `AttributionMethod.raw_maps`. A map sums to the image's share of the word's attention, at most 1.

        Raises:
            AdapterError: if a layer of the model does not call `scaled_dot_product_attention` once for each stream.
        """
        adapter, cells = answer.adapter, answer.view.cells
        if self.target_layers is not None:
            adapter.check_layers(self.target_layers)
        positions = answer.positions(words)
        maps = answer.zeros(len(positions))
        if not words:
            return maps
        states = canvases(answer.trajectory, positions, self.state, adapter.mask_token)
        for canvas in checked(states.unique(dim=0)):
            rows = (states == canvas).all(1).nonzero()[:, 0]
            flow = self._flow(adapter, answer.inputs, canvas[None], positions[rows])
            maps[rows] = flow[:, cells.flatten()].view(-1, *cells.shape)
        return mean_by_word(maps, words)

    def _flow(self, adapter: Adapter[Any], inputs: Inputs, canvas: Tensor, positions: Tensor) -> Tensor:
        """Float32 `[T, n]`: the share of each sequence row in the rows that the targets' logits are read from."""
        hidden = adapter.embed(inputs, canvas)
        lowest = -1 if self.target_layers is None else self.target_layers[0]
        attention = []
        for index in range(adapter.num_layers):
            with AttentionRecorder() as recorder:
                output = adapter.layer(index, hidden, inputs)
            if index > lowest:
                calls = [weights[0] for weights in recorder.weights]
                attention.append(_sequence_attention(calls, hidden, output, adapter.name))
            hidden = output
        return roll_out(_logit_rows(adapter, hidden, inputs, positions, attention[-1].shape[0]), attention)


def roll_out(rows: Tensor, attention: Sequence[Tensor]) -> Tensor:
    """Propagates shares `[T, n]` of the rows at the last layer's output down through the attention `[n, n]` of the
    layers (lowest first). Half of each row stays with the row."""
    for weight in reversed(attention):
        rows = (rows @ weight + rows) / 2
    return rows


class AttentionRecorder(TorchFunctionMode):
    """Records the attention weights of `scaled_dot_product_attention` inside the context, in this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []  # [C, queries, keys] each, the mean over heads

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            self.weights.append(weights(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention weights float32 `[C, N, M]` of a call of `scaled_dot_product_attention`, averaged over heads. The
    arguments are those of the call."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    logits = query.float() @ key.float().transpose(-1, -2) * factor
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    if attn_mask is not None:
        logits = logits.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else logits + attn_mask
    return logits.softmax(-1).mean(-3)


def _sequence_attention(calls: list[Tensor], hidden: Hidden, output: Hidden, name: str) -> Tensor:
    """Attention of one layer over the whole sequence, `[n, n]`: the rows of the image stream, then those of a separate
    canvas. Rows that the layer did not compute (the image in the last layer) are the identity."""
    image = hidden.image.shape[1]
    total = image + (0 if hidden.canvas is None else hidden.canvas.shape[1])
    streams = 1 if hidden.canvas is None else 2
    computed = (output.image if output.canvas is None else output.canvas).shape[1]
    if not 1 <= len(calls) <= streams or len(calls[-1]) != computed:
        raise AdapterError(
            "attention_rollout: model must call scaled_dot_product_attention once for each stream, "
            f"got {name}, with {len(calls)} calls in a layer"
        )
    whole = torch.eye(total, device=hidden.image.device)
    if len(calls) == 2:
        whole[:image, :image] = calls[0]
    rows, keys = calls[-1].shape
    # a layer with a sliding window may hold only the last keys
    whole[total - rows :] = F.pad(calls[-1], (total - keys, 0))
    return whole


def _logit_rows(adapter: Adapter[Any], hidden: Hidden, inputs: Inputs, positions: Tensor, total: int) -> Tensor:
    """One-hot `[T, n]`: the row that each position's logits are read from. Families shift it, so it is found by the
    gradient of the LM head."""
    canvas = hidden.canvas is not None
    with torch.enable_grad():
        states = (hidden.canvas if hidden.canvas is not None else hidden.image).detach().requires_grad_()
        shown = Hidden(hidden.image, states) if canvas else Hidden(states)
        logits = adapter.logits(shown, positions[None], inputs)[0]
        tops = logits.amax(-1)
        reached = torch.stack([torch.autograd.grad(top, states, retain_graph=True)[0][0].abs().sum(-1) for top in tops])
    strength, rows = reached.max(1)
    if not bool((strength > 0).all()):
        raise AdapterError(f"attention_rollout: logits must depend on a row of the sequence, got {adapter.name}")
    rows += total - states.shape[1]
    return F.one_hot(rows, total).float()
