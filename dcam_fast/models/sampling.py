"""Draws of a generation, equal to those of the official code after `torch.manual_seed` with the same seed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints

from dcam_fast.models.generation import Generation


def make_generator(generation: Generation, device: torch.device) -> torch.Generator:
    """A generator of random numbers on `device`, seeded as `generation` says."""
    return torch.Generator(device).manual_seed(generation.seed)


def draw_with_noise(logits: Tensor, temperature: float, generator: torch.Generator, num_leading: int = 0) -> Tensor:
    """Tokens by LLaDA's Gumbel noise in float64 (arXiv 2409.02908), or the most likely ones at temperature 0.

    Args:
        logits: `[..., L, V]`.
        temperature: 0 draws nothing.
        generator: on the device of the logits.
        num_leading: rows before the `L`, for which the official code draws noise too.

    Returns:
        int64 `[..., L]`.

    >>> logits = torch.tensor([[0.0, 1.0], [3.0, 0.0]])
    >>> draw_with_noise(logits, 0.0, torch.Generator()).tolist()
    [1, 0]
    """
    if not temperature:
        return logits.argmax(-1)
    *batch, length, size = logits.shape
    shape = (*batch, num_leading + length, size)
    noise = torch.rand(shape, dtype=torch.float64, device=logits.device, generator=generator)[..., num_leading:, :]
    return (logits.double().exp() / (-noise.log()) ** temperature).argmax(-1)


def draw(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Tokens int64 `[n]` drawn with probabilities `[n, V]`, as `torch.distributions.Categorical` draws them.

    It rejects probabilities whose sum was rounded too far from 1. The official code of Dream then takes the most likely
    tokens.
    """
    normalized = probabilities / probabilities.sum(-1, keepdim=True)
    if not constraints.simplex.check(normalized).all():  # type: ignore[no-untyped-call]
        return probabilities.argmax(-1)
    return torch.multinomial(normalized, 1, replacement=True, generator=generator)[:, 0]


def keep_likely(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Logits `[n, V]` with all but the likely tokens at minus infinity, as Dream's sampling does it.

    Args:
        logits: of any dtype.
        top_k: how many tokens to keep; None for all.
        top_p: how much probability to keep; None or 1 for all.

    >>> keep_likely(torch.tensor([[0.0, 2.0, 1.0]]), top_k=2, top_p=None).tolist()
    [[-inf, 2.0, 1.0]]
    """
    if top_p is not None and top_p < 1:
        ordered, tokens = logits.sort(descending=True)
        beyond = (ordered.softmax(-1).cumsum(-1) > top_p).roll(1, -1)  # the token that crosses the limit is kept
        beyond[:, 0] = False
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, tokens, beyond), -torch.inf)
    if top_k is not None:
        smallest = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    return logits
