"""Records the generation of DiffusionGemma as transformers runs it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from dcam_fast.interruption import check_interruption
from dcam_fast.models.adapter import OPEN, Trajectory

_GENERATING = threading.Lock()  # transformers samples from the random state that all threads share
PATIENCE: Final = 0.05  # seconds between two checks while another thread generates
_NUMBERS = itertools.count(1)  # identify the embeddings that canvases are conditioned on


@dataclass(frozen=True)
class DiffusionGemmaTrajectory(Trajectory):
    """A trajectory with what each canvas is conditioned on.

    Attributes:
        conditioning: for every step the mean embeddings `[L, D]` of the guesses before it, None at the first step. The
            last column of `canvases` holds their numbers, valid as long as the trajectory exists.
    """

    conditioning: tuple[Tensor | None, ...] = ()


@dataclass
class GenerationRecord:
    """The steps of one generation. It is a streamer of transformers (`put`, `put_draft`, `end`).

    Attributes:
        canvases: int64 `[L]`, the decoder's input at each step.
        conditioning: `[L, D]` or None, what each canvas is conditioned on.
        numbers: of each conditioning, 0 for none.
        guesses: int64 `[L]`, the best guesses of each step.
    """

    canvases: list[Tensor] = field(default_factory=list)
    conditioning: list[Tensor | None] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    guesses: list[Tensor] = field(default_factory=list)

    def put(self, value: Tensor) -> None:
        """Ignores the prompt and the finished canvas."""

    def put_draft(self, value: Tensor) -> None:
        """Records the best guesses of a step."""
        self.guesses.append(value[0])

    def end(self) -> None:
        """Called at the end of the generation."""

    def trajectory(self, end_tokens: Sequence[int]) -> DiffusionGemmaTrajectory:
        """The trajectory up to the last finished step, given the token ids that end an answer."""
        count = len(self.guesses)
        device = self.canvases[0].device
        guesses = torch.stack(self.guesses).to(device)
        answer = guesses[-1]
        steps = count - (guesses == answer).flip(0).cumprod(0).sum(0)  # from which on the guess is unchanged
        if len(self.canvases) > count:  # not finished: a token that the next step does not get is not accepted yet
            steps = torch.where(self.canvases[count] == answer, steps, OPEN)
        numbers = torch.tensor(self.numbers[:count], device=device)
        ends = (torch.isin(answer, torch.tensor(end_tokens, device=device)) & (steps != OPEN)).nonzero()
        return DiffusionGemmaTrajectory(
            tokens=answer,
            steps=steps,
            length=int(ends[0]) if len(ends) else len(answer),
            canvases=torch.cat((torch.stack(self.canvases[:count]), numbers[:, None]), 1),
            conditioning=tuple(self.conditioning[:count]),
        )


@contextmanager
def recording(
    decoder: nn.Module, conditioning: MutableMapping[int, Tensor], after_step: Callable[[GenerationRecord], None]
) -> Iterator[GenerationRecord]:
    """Records the decoder's inputs while the context lasts, in this thread only: others may replay or generate.

    Args:
        decoder: the model's.
        conditioning: receives what canvases are conditioned on, by number.
        after_step: called after every step but the last, once the canvas of the next step is known.
    """
    record, thread = GenerationRecord(), threading.get_ident()

    def read_canvas(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != thread:
            return
        record.canvases.append(kwargs["decoder_input_ids"][0].clone())
        if record.guesses:
            after_step(record)
        if kwargs["self_conditioning_logits"] is None:
            record.conditioning.append(None)
            record.numbers.append(0)

    def read_conditioning(_module: nn.Module, args: tuple[Tensor, Tensor]) -> None:
        if threading.get_ident() != thread or len(record.conditioning) == len(record.canvases):
            return
        embeddings = args[1][0].clone()
        record.conditioning.append(embeddings)
        record.numbers.append(next(_NUMBERS))
        conditioning[record.numbers[-1]] = embeddings

    hooks = [
        decoder.register_forward_pre_hook(read_canvas, with_kwargs=True),
        decoder.self_conditioning.register_forward_pre_hook(read_conditioning),  # type: ignore[operator, union-attr]
    ]
    try:
        yield record
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _turn() -> Iterator[None]:
    """A context for one thread at a time. Waiting for it can be interrupted."""
    while not _GENERATING.acquire(timeout=PATIENCE):
        check_interruption()
    try:
        yield
    finally:
        _GENERATING.release()


class RandomNumbers:
    """The random numbers of one generation: seeded, and independent of other draws in between."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed = seed
        self._devices = [device] if device.type == "cuda" else []
        self._states: list[Tensor] = []

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """A context whose draws continue where the last one ended; threads take turns."""
        with _turn(), torch.random.fork_rng(self._devices):
            if self._states:
                torch.set_rng_state(self._states[0])
                for state, device in zip(self._states[1:], self._devices, strict=True):
                    torch.cuda.set_rng_state(state, device)
            else:
                torch.manual_seed(self._seed)
            yield
            self._states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._devices)]
