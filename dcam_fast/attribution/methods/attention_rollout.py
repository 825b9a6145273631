"""Attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928): how much of each image cell attention mixes into a
word, layer by layer, without any gradient. An approximation: it knows neither values nor MLPs, nor what the word is.

Attention is read where it is computed, from the calls of ``scaled_dot_product_attention`` that a layer makes, so a
family needs nothing for it but to use that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dcam_fast.attribution.answer_states import State, canvases
from dcam_fast.attribution.by_word import mean_by_word, positions_of
from dcam_fast.config import RAW, RefineConfig
from dcam_fast.models.adapter import Adapter, AdapterError, Hidden, ImageView, Inputs, Trajectory, Word


@dataclass(frozen=True)
class AttentionRollout:
    """The attention of all heads averaged, half of it replaced by the identity for the residual stream, multiplied from
    the last layer down.

    Attributes:
        state: the answer state of the pass (`attribution.states`).
        target_layers: the rollout ends at what the cells hold behind the lowest of them; None: at the embeddings.
        profile: how the map is refined.
    """

    state: State = "remask"
    target_layers: tuple[int, ...] | None = None
    profile: RefineConfig = RAW

    @torch.no_grad()
    def raw_maps(
        self, adapter: Adapter[Any], inputs: Inputs, trajectory: Trajectory, words: Sequence[Word], view: ImageView
    ) -> Tensor:
        """See `AttributionMethod.raw_maps`; the total of a map is at most 1, the share of its word that the image has.

        Raises AdapterError for a model that attends in another way."""
        if self.target_layers is not None:
            adapter.check_layers(self.target_layers)
        maps = view.boxes.new_zeros(sum(len(word.positions) for word in words), *view.cells.shape)
        if not words:
            return maps
        positions = positions_of(words).to(adapter.device)
        states = canvases(trajectory, positions, self.state, adapter.mask_token)
        for canvas in states.unique(dim=0):
            asked = (states == canvas).all(1).nonzero()[:, 0]
            flow = self._flow(adapter, inputs, canvas[None], positions[asked])
            maps[asked] = flow[:, view.cells.flatten()].view(-1, *view.cells.shape)
        return mean_by_word(maps, words)

    def _flow(self, adapter: Adapter[Any], inputs: Inputs, canvas: Tensor, positions: Tensor) -> Tensor:
        """Float32 ``[T, n]``: what each row of the sequence has in the rows that the targets' logits are read from."""
        hidden = adapter.embed(inputs, canvas)
        lowest = -1 if self.target_layers is None else self.target_layers[0]
        attention = []
        for index in range(adapter.num_layers):
            with _Attention() as watched:
                behind = adapter.layer(index, hidden, inputs)
            if index > lowest:
                attention.append(_of_sequence(watched.seen, hidden, adapter.name))
            hidden = behind
        return roll_out(_rows_read(adapter, hidden, inputs, positions, attention[-1].shape[0]), attention)


def roll_out(rows: Tensor, attention: Sequence[Tensor]) -> Tensor:
    """Shares ``[T, n]`` of rows of the sequence behind the last layer, taken down through the attention ``[n, n]`` of
    the layers (lowest first); a row keeps half for itself."""
    for one in reversed(attention):
        rows = (rows @ one + rows) / 2
    return rows


class _Attention(TorchFunctionMode):
    """Notes what ``scaled_dot_product_attention`` weighs its keys with while the context lasts, in this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []  # [queries, keys] each, the mean over heads

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            self.seen.append(weights(*args, **(kwargs or {})))
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
    """Float32 ``[N, M]``: what ``scaled_dot_product_attention`` of one sequence weighs its values with, the mean over
    heads."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    logits = query.float() @ key.float().transpose(-1, -2) * factor
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    if attn_mask is not None:
        logits = logits.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else logits + attn_mask
    return logits.softmax(-1).flatten(0, -3).mean(0)


def _of_sequence(seen: list[Tensor], hidden: Hidden, name: str) -> Tensor:
    """Attention of one layer over the whole sequence, ``[n, n]``: the image stream's rows, then the canvas's where it
    is a stream of its own. A stream that was not computed (the image's, behind the last layer) keeps its rows."""
    image = hidden.image.shape[1]
    total = image + (0 if hidden.canvas is None else hidden.canvas.shape[1])
    calls = 1 if hidden.canvas is None else 2
    if not 1 <= len(seen) <= calls or len(seen[-1]) != total - (image if calls == 2 else 0):
        raise AdapterError(
            f"attention_rollout: model must attend by one scaled_dot_product_attention a stream, got {name}, which has "
            f"{len(seen)} in a layer"
        )
    whole = torch.eye(total, device=hidden.image.device)
    if len(seen) == 2:
        whole[:image, :image] = seen[0]
    rows, keys = seen[-1].shape
    # a layer with a sliding window may hold no keys but the last
    whole[total - rows :] = F.pad(seen[-1], (total - keys, 0))
    return whole


def _rows_read(adapter: Adapter[Any], hidden: Hidden, inputs: Inputs, positions: Tensor, total: int) -> Tensor:
    """One-hot ``[T, n]``: the row that each position's logits are read from, found by which one the LM head's gradient
    reaches: families shift them."""
    canvas = hidden.canvas is not None
    with torch.enable_grad():
        states = (hidden.canvas if hidden.canvas is not None else hidden.image).detach().requires_grad_()
        shown = Hidden(hidden.image, states) if canvas else Hidden(states)
        logits = adapter.logits(shown, positions[None], inputs)[0]
        tops = logits.amax(-1)
        reached = torch.stack([torch.autograd.grad(top, states, retain_graph=True)[0][0].abs().sum(-1) for top in tops])
    strength, rows = reached.max(1)
    if not bool((strength > 0).all()):
        raise AdapterError(f"attention_rollout: logits must follow from a row of the sequence, got {adapter.name}'s")
    rows += total - states.shape[1]
    return F.one_hot(rows, total).float()
