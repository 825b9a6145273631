"""How an answer of DiffusionGemma comes about: transformers' own generation, watched."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dcam_fast.models.adapter import OPEN, Trajectory

_GENERATING = threading.Lock()  # transformers samples from the random numbers that all threads share
_NUMBERS = itertools.count(1)  # of what canvases are conditioned on


@dataclass(frozen=True)
class DiffusionGemmaTrajectory(Trajectory):
    """``conditioning``: for every step the ``[L, D]`` mean embeddings of the guesses before it, None before the first.
    The last column of ``canvases`` names them, for as long as the trajectory lives."""

    conditioning: tuple[Tensor | None, ...] = ()


@dataclass
class Record:
    """What one generation goes through: canvases ``[L]``, what they are conditioned on and its number (0: nothing),
    best guesses ``[L]``."""

    canvases: list[Tensor] = field(default_factory=list)
    conditioning: list[Tensor | None] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    guesses: list[Tensor] = field(default_factory=list)

    def put(self, value: Tensor) -> None:
        """Of a streamer: prompt and finished canvases, which are known anyway."""

    def put_draft(self, value: Tensor) -> None:
        """Of a streamer: the best guesses of a step."""
        self.guesses.append(value[0])

    def end(self) -> None:
        """Of a streamer."""

    def trajectory(self, ends: Sequence[int]) -> DiffusionGemmaTrajectory:
        """How the answer has come about by the last step that is over. ``ends``: the tokens that end an answer."""
        count = len(self.guesses)
        device = self.canvases[0].device
        guesses = torch.stack(self.guesses).to(device)
        answer = guesses[-1]
        steps = count - (guesses == answer).flip(0).cumprod(0).sum(0)  # from which on the guess stayed what it is
        if len(self.canvases) > count:  # it is not over: what the next step does not get is not accepted yet
            steps = torch.where(self.canvases[count] == answer, steps, OPEN)
        numbers = torch.tensor(self.numbers[:count], device=device)
        end = (torch.isin(answer, torch.tensor(ends, device=device)) & (steps != OPEN)).nonzero()
        return DiffusionGemmaTrajectory(
            tokens=answer,
            steps=steps,
            length=int(end[0]) if len(end) else len(answer),
            canvases=torch.cat((torch.stack(self.canvases[:count]), numbers[:, None]), 1),
            conditioning=tuple(self.conditioning[:count]),
        )


@contextmanager
def recording(
    decoder: nn.Module, known: MutableMapping[int, Tensor], step_over: Callable[[Record], None]
) -> Iterator[Record]:
    """What the decoder reads while the context lasts, in this thread: in others it may be replaying or generating.

    Args:
        decoder: the model's.
        known: gets what canvases are conditioned on, by number.
        step_over: is called after every step but the last, when the canvas of the next one is known.
    """
    record, thread = Record(), threading.get_ident()

    def read_canvas(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != thread:
            return
        record.canvases.append(kwargs["decoder_input_ids"][0].clone())
        if record.guesses:
            step_over(record)
        if kwargs["self_conditioning_logits"] is None:
            record.conditioning.append(None)
            record.numbers.append(0)

    def read_conditioning(_module: nn.Module, args: tuple[Tensor, Tensor]) -> None:
        if threading.get_ident() != thread or len(record.conditioning) == len(record.canvases):
            return
        embeddings = args[1][0].clone()
        record.conditioning.append(embeddings)
        record.numbers.append(next(_NUMBERS))
        known[record.numbers[-1]] = embeddings

    hooks = [
        decoder.register_forward_pre_hook(read_canvas, with_kwargs=True),
        decoder.self_conditioning.register_forward_pre_hook(read_conditioning),  # type: ignore[operator, union-attr]
    ]
    try:
        yield record
    finally:
        for hook in hooks:
            hook.remove()


class RandomNumbers:
    """Those of one generation: from a seed on, and apart from whatever else draws some in between."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed = seed
        self._devices = [device] if device.type == "cuda" else []
        self._states: list[Tensor] = []

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """What draws random numbers inside goes on where it stopped; threads take turns."""
        with _GENERATING, torch.random.fork_rng(self._devices):
            if self._states:
                torch.set_rng_state(self._states[0])
                for state, device in zip(self._states[1:], self._devices, strict=True):
                    torch.cuda.set_rng_state(state, device)
            else:
                torch.manual_seed(self._seed)
            yield
            self._states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._devices)]
