"""What must hold of an adapter: of stubs in the tests, of the real code in `check_real.py`. Each check returns what
there is to report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dcam_fast import Contrast, Explainer, Explanation, GivenAnswer, GradientCAM
from dcam_fast.attribution.answer_states import canvases
from dcam_fast.attribution.engine import capture
from dcam_fast.attribution.methods.gradient_cam import build_targets
from dcam_fast.attribution.probabilities import without_answer
from dcam_fast.models.adapter import ImageView
from dcam_fast.models.generation import Generation

PROMPT = "what is this"


@dataclass(frozen=True)
class Generated:
    """What the authors' code wrote: tokens `[L]`, the canvas `[L]` after every step, and the logits `[L, V]`
    that every step used."""

    tokens: Tensor
    canvases: list[Tensor]
    logits: list[Tensor]


class Subject(Protocol):
    """A model with its adapter."""

    adapter: Any

    def generate(self, image: NDArray[np.uint8], generation: Generation) -> Generated:
        """By the authors' own code, with torch's own generator seeded."""

    def full(self, inputs: Any, canvas: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits `[L, V]` by the authors' own forward, and the image stream after every layer, with a graph."""


def picture(h: int, w: int, seed: int = 0) -> NDArray[np.uint8]:
    """Noise of `h` x `w` pixels."""
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


def check_generation(subject: Subject, image: NDArray[np.uint8], generation: Generation) -> float:
    """The adapter writes what the authors' code writes, token by token and step by step, and its logits are the
    authors', as generation reads them and as the replay of every state does. Returns their largest relative difference.

    The adapter decides on the authors' logits, not on its own, which round differently: with random weights some
    guesses are as probable as others to the last bit.
    """
    adapter = subject.adapter
    inputs = adapter.encode(image, PROMPT)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(generation.seed)
        own = subject.generate(image, generation)
    masked = torch.full((adapter.answer_length,), adapter.mask_token)
    known = {tuple(canvas.tolist()): logits for canvas, logits in zip([masked, *own.canvases], own.logits)}  # noqa: B905
    make_logits_fn, differences = adapter.logits_fn, [0.0]

    def logits_fn(inputs: object) -> Callable[[Tensor], Tensor]:
        logits_of = make_logits_fn(inputs)

        def official_logits(canvas: Tensor) -> Tensor:
            got, expected = logits_of(canvas), known[tuple(canvas.tolist())]
            is_possible = got.isfinite()
            differences.append(relative(got[is_possible], expected[is_possible]))
            return torch.where(is_possible, expected, got)

        return official_logits

    with patch.object(adapter, "logits_fn", logits_fn):
        *earlier, trajectory = adapter.denoise(inputs, generation)
    assert trajectory.tokens.equal(own.tokens)
    assert len(earlier) == len(own.logits) - 1 < generation.steps
    for step, expected in enumerate(own.logits):
        canvas = canvases(trajectory, torch.tensor([0]), step, adapter.mask_token)
        assert step == 0 or canvas[0].equal(own.canvases[step - 1]), f"another canvas at step {step}"
        differences.append(relative(replayed(subject, inputs, canvas), expected))
    worst = max(differences)
    assert worst <= 1e-5, f"logits differ by {worst:.1e}"
    return worst


@torch.no_grad()
def replayed(subject: Subject, inputs: object, canvas: Tensor) -> Tensor:
    """Logits `[L, V]` of the adapter's layers at a canvas `[1, L]`."""
    adapter = subject.adapter
    hidden = adapter.embed(inputs, canvas)
    for index in range(adapter.num_layers):
        hidden = adapter.layer(index, hidden, inputs)
    return adapter.logits(hidden, torch.arange(canvas.shape[1])[None], inputs)[0]


def check_gradients(subject: Subject, image: NDArray[np.uint8], positions: tuple[int, ...]) -> float:
    """Gradients of the split run are those of the authors' own forward with a graph through all of it. Returns the
    largest relative difference."""
    adapter = subject.adapter
    inputs = adapter.encode(image, PROMPT)
    trajectory = adapter.generate(inputs)
    layers = tuple(range(adapter.num_layers - 1))
    targets = build_targets(trajectory, torch.tensor(positions), "committed", adapter.mask_token)
    captured = capture(adapter, inputs, targets, layers, "logit")
    worst = 0.0
    for row, position in enumerate(positions):
        logits, states = subject.full(inputs, targets.canvases[row])
        expected = torch.autograd.grad(logits[position, trajectory.tokens[position]], states[:-1])
        for got, gradient, state in zip(captured, expected, states[:-1], strict=True):
            assert gradient.abs().max() > 0
            assert relative(got.activations[row], state[0].detach()) <= 1e-6
            worst = max(worst, relative(got.gradients[row], gradient[0]))
    assert worst <= 1e-6, f"gradients differ by {worst:.1e}"
    return worst


def check_given(adapter: Any, image: NDArray[np.uint8], generation: Generation, *states: str) -> None:
    """An answer that the model generated, given, has bitwise the same maps and scores at each of `states`: as tokens
    with their steps, as a trajectory, and as tokens alone where the state needs no steps."""
    explainer = Explainer(adapter)
    finished = adapter.generate(adapter.encode(image, PROMPT), generation)
    tokens, steps = finished.tokens, finished.steps
    for state in states:
        method = GradientCAM(state=state)  # type: ignore[arg-type]
        options: dict[str, Any] = {"method": method, "generation": generation}
        expected = explainer.explain(image, PROMPT, "all", **options)
        answers: list[Any] = [finished]
        if state != "committed":
            answers += [tokens, tokens.tolist(), tokens.numpy()]
        if finished.canvases is None:
            answers.append(GivenAnswer(tuple(tokens.tolist()), tuple(steps.tolist())))
        for answer in answers:
            got = explainer.explain(image, PROMPT, "all", answer=answer, **options)
            assert got.answer == expected.answer
            assert got.targets == expected.targets
            assert got.maps.equal(expected.maps)
            assert got.raw_maps.equal(expected.raw_maps)


@torch.no_grad()
def check_rows(subject: Subject, image: NDArray[np.uint8]) -> None:
    """The logits of a position are read `logit_shift` rows before it, from no other row, and the rows before the answer
    are those of the image, those of the prompt and as many more."""
    adapter, length = subject.adapter, subject.adapter.answer_length
    inputs = adapter.encode(image, PROMPT)
    hidden = adapter.embed(inputs, torch.full((1, length), adapter.mask_token))
    position = length // 2
    for row in range(length):
        rows = F.one_hot(torch.tensor([row]), length).bool()
        # an empty source makes the row 0
        changed = without_answer(hidden, rows, torch.zeros_like(rows))
        logits = (adapter.logits(states, torch.tensor([[position]]), inputs) for states in (hidden, changed))
        assert torch.equal(*logits) == (row != position - adapter.logit_shift)
    before = hidden.image.shape[1] - (0 if adapter.has_two_streams else length)
    prompt = adapter.prompt_rows(inputs, before)
    assert len(torch.cat((prompt, inputs.image_rows)).unique()) == len(prompt) + len(inputs.image_rows)
    assert len(prompt) + len(inputs.image_rows) == inputs.embedded.shape[1] - adapter.logit_shift


@torch.no_grad()
def check_changed_pixels(subject: Subject, h: int, w: int) -> int:
    """Changed pixels in a cell's box change that cell's token most, in every view. Returns how many cells were
    checked."""
    blank = np.full((h, w, 3), 128, np.uint8)
    count = 0
    for view in subject.adapter.encode(blank, PROMPT).views:
        before = tokens_of(subject, blank, view)
        rows, columns = view.cells.shape
        spread = {(0, 0), (0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1), (rows // 2, columns // 3)}
        for row, column in sorted(spread):
            changed = blank.copy()
            x0, y0, x1, y1 = inside(view, row, column, h, w)
            changed[y0:y1, x0:x1] = (255, 0, 60)
            change = (tokens_of(subject, changed, view) - before).norm(dim=-1)
            found = divmod(int(change.argmax()), columns)
            assert found == (row, column), f"{view.name} of {h} x {w}: changed {(row, column)}, got {found}"
            count += 1
    return count


def inside(view: ImageView, row: int, column: int, h: int, w: int) -> tuple[int, int, int, int]:
    """The pixels of the photo that a cell's box covers."""
    x0, y0, x1, y1 = view.boxes[row, column].tolist()
    return max(round(x0), 0), max(round(y0), 0), min(round(x1), w), min(round(y1), h)


def tokens_of(subject: Subject, image: NDArray[np.uint8], view: ImageView) -> Tensor:
    return subject.adapter.encode(image, PROMPT).embedded[0, view.cells.flatten()]


def check_contrasts(subject: Any, image: NDArray[np.uint8]) -> Explanation:
    """The first word of a stub's answer rather than another one has a map. Returns the explanation of all words."""
    explainer = Explainer(subject.adapter)
    words = explainer.explain(image, PROMPT, "all")
    first = words.targets[0].text
    other = next(word for word in ("x3", "x6") if word != first)
    explanation = explainer.explain(image, PROMPT, [Contrast(first, other)])
    assert explanation.names == (f"{first} > {other}",)
    assert float(explanation.raw_maps.amax()) > float(explanation.raw_maps.amin())
    return words
