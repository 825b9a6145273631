"""How a masked-diffusion model writes its answer: in every step the masked positions it is surest of.

This is the decoding of LLaDA and of the families made from it, without sampling: block by block from the left, a number
of tokens in every step that a schedule lays down, each the model's best guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dcam_fast.models.adapter import OPEN, AdapterError, Trajectory


@dataclass(frozen=True)
class Plan:
    """Which tokens are written when.

    Attributes:
        length: of the answer in tokens.
        block_length: tokens in a block; a block is begun when the one before it is finished.
        counts: how many tokens each step of a block writes.
        mask_token: what stands where nothing is written yet.
        ends: tokens that end the text.
        stops: whether generation ends once all in front of the first of ``ends`` is written.
        lead: positions in front of the answer that the model's own code ranks with it. They are never written, but
            where a step has more tokens to write than there are positions to write, they take some.
    """

    length: int
    block_length: int
    counts: tuple[int, ...]
    mask_token: int
    ends: tuple[int, ...]
    stops: bool = False
    lead: int = 0


def steps_of_blocks(length: int, steps: int, block_length: int) -> int:
    """Steps a block gets.

    Raises:
        AdapterError: unless the answer is whole blocks and every block gets as many steps, no more than it has tokens.
    """
    if not 1 <= block_length <= length or length % block_length:
        raise AdapterError(f"generate: block_length must divide the {length} tokens of an answer, got {block_length}")
    blocks = length // block_length
    if steps < 1 or steps % blocks or steps > length:
        raise AdapterError(
            f"generate: steps must be a multiple of the {blocks} blocks and at most {length}, got {steps}"
        )
    return steps // blocks


def even(tokens: int, steps: int) -> tuple[int, ...]:
    """As many tokens in every step, those that are left over in the first ones."""
    return tuple(tokens // steps + (step < tokens % steps) for step in range(steps))


def shifted(tokens: int, steps: int, shift: float = 3.0) -> tuple[int, ...]:
    """Few tokens in the first steps and many in the last ones: the time ``t`` of a step becomes
    ``shift t / (1 + (shift - 1) t)``, and every step writes at least one token."""
    t = torch.linspace(0, 1, steps + 1)
    written = (shift * t / (1 + (shift - 1) * t) * tokens).long()
    counts = written.diff().clamp(min=1).tolist()
    surplus, step = sum(counts) - tokens, 0
    while surplus > 0:
        if counts[step] > 1:
            counts[step] -= 1
            surplus -= 1
        step = (step + 1) % steps
    return tuple(reversed(counts))


@torch.no_grad()
def unmask(logits: Callable[[Tensor], Tensor], plan: Plan, device: torch.device) -> Iterator[Trajectory]:
    """The trajectory so far after every step.

    Args:
        logits: from a canvas int64 ``[L]`` to float32 ``[L, V]``.
        plan: what is written when.
        device: of the tokens.
    """
    canvas = torch.full((plan.length,), plan.mask_token, device=device)
    written = torch.full_like(canvas, OPEN)
    step, stop = 0, plan.length
    for start in range(0, plan.length, plan.block_length):
        end = start + plan.block_length
        if start >= stop:
            break
        for count in plan.counts:
            masked = canvas == plan.mask_token
            if not (masked[start:end].any() and masked[:stop].any()):
                break
            scores = logits(canvas)
            guess = scores.argmax(-1)
            sure = scores.double().softmax(-1).gather(1, guess[:, None])[:, 0]
            ranked = sure.masked_fill(~masked, -torch.inf)
            ranked[min(end, stop) :] = -torch.inf
            everything = torch.cat((ranked.new_full((plan.lead,), -torch.inf), ranked))
            chosen = everything.topk(count).indices - plan.lead
            chosen = chosen[chosen >= 0]
            chosen = chosen[masked[chosen] & (guess[chosen] != plan.mask_token)]
            canvas, written = canvas.clone(), written.clone()
            canvas[chosen], written[chosen] = guess[chosen], step
            ends = torch.isin(canvas, torch.tensor(plan.ends, device=device)).nonzero()
            length = int(ends[0]) if len(ends) else plan.length
            if plan.stops:
                stop = length
            step += 1
            yield Trajectory(canvas, written, length)
