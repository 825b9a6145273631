"""Decoding of masked-diffusion models: every step unmasks the most confident positions.

This is the decoding of LLaDA (arXiv 2502.09992) and of the families derived from it. Blocks are denoised from left to
right. Each step guesses a token for every position: the most likely one or, with a temperature, a drawn one. It unmasks
the most probable guesses, as many as the schedule says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dcam_fast.models.adapter import OPEN, AdapterError, Trajectory
from dcam_fast.models.generation import Generation
from dcam_fast.models.sampling import draw_with_noise, make_generator


@dataclass(frozen=True)
class UnmaskingSchedule:
    """How many tokens each step unmasks, and where generation ends.

    Attributes:
        length: of the answer in tokens.
        block_length: tokens in a block; a block begins when the one before it is finished.
        num_to_unmask: how many tokens each step of a block unmasks.
        mask_token: id of the mask token.
        end_tokens: token ids that end the text.
        stops_at_end: whether generation ends once all positions before the first end token are unmasked.
        num_leading: rows before the answer that the official code ranks together with it. They are never unmasked. But
            where a step has more tokens to unmask than the block has masked positions, some of them count.
    """

    length: int
    block_length: int
    num_to_unmask: tuple[int, ...]
    mask_token: int
    end_tokens: tuple[int, ...]
    stops_at_end: bool = False
    num_leading: int = 0


def steps_per_block(length: int, steps: int, block_length: int) -> int:
    """Denoising steps of each block.

    >>> steps_per_block(64, 32, 16)
    8

    Raises:
        AdapterError: unless blocks divide the answer, steps divide evenly among them, and no step would be empty.
    """
    if not 1 <= block_length <= length or length % block_length:
        raise AdapterError(f"generate: block_length must divide the {length} tokens of an answer, got {block_length}")
    blocks = length // block_length
    if steps < 1 or steps % blocks or steps > length:
        raise AdapterError(
            f"generate: steps must be a multiple of the {blocks} blocks and at most {length}, got {steps}"
        )
    return steps // blocks


def even_schedule(tokens: int, steps: int) -> tuple[int, ...]:
    """Equally many tokens in every step; the first steps take the remainder.

    >>> even_schedule(8, 3)
    (3, 3, 2)
    """
    return tuple(tokens // steps + (step < tokens % steps) for step in range(steps))


def shifted_schedule(tokens: int, steps: int, shift: float = 3.0) -> tuple[int, ...]:
    """Few tokens in the first steps and many in the last ones, at least one in each (LaViDa, arXiv 2505.16839).

    The time `t` of a step becomes `shift * t / (1 + (shift - 1) * t)`.

    >>> shifted_schedule(8, 4)
    (1, 1, 2, 4)
    """
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
def unmask(
    logits_fn: Callable[[Tensor], Tensor], schedule: UnmaskingSchedule, generation: Generation, device: torch.device
) -> Iterator[Trajectory]:
    """Yields the trajectory so far after every step.

    Args:
        logits_fn: from a canvas, int64 `[L]`, to logits, float32 `[L, V]`.
        schedule: how many tokens each step unmasks.
        generation: its temperature (None: 0) and seed.
        device: of the tokens.
    """
    mask_token, num_leading = schedule.mask_token, schedule.num_leading
    end_tokens = torch.tensor(schedule.end_tokens, device=device)
    canvas = torch.full((schedule.length,), mask_token, device=device)
    written = torch.full_like(canvas, OPEN)
    temperature, generator = generation.temperature or 0.0, make_generator(generation, device)
    step, stop = 0, schedule.length
    for start in range(0, schedule.length, schedule.block_length):
        end = start + schedule.block_length
        if start >= stop:
            break
        for count in schedule.num_to_unmask:
            masked = canvas == mask_token
            if not (masked[start:end].any() and masked[:stop].any()):
                break
            logits = logits_fn(canvas)
            guess = draw_with_noise(logits, temperature, generator, num_leading)
            confidence = logits.double().softmax(-1).gather(1, guess[:, None])[:, 0]
            confidence.masked_fill_(~masked, -torch.inf)
            confidence[min(end, stop) :] = -torch.inf
            ranked = torch.cat((confidence.new_full((num_leading,), -torch.inf), confidence))
            chosen = ranked.topk(count).indices - num_leading
            chosen = chosen[chosen >= 0]
            chosen = chosen[masked[chosen] & (guess[chosen] != mask_token)]
            canvas, written = canvas.clone(), written.clone()
            canvas[chosen], written[chosen] = guess[chosen], step
            ends = torch.isin(canvas, end_tokens).nonzero()
            length = int(ends[0]) if len(ends) else schedule.length
            if schedule.stops_at_end:
                stop = length
            step += 1
            yield Trajectory(canvas, written, length)
