"""What the worker's thread does for a request: an explanation, a stream of steps, or an answer alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcam_fast.attribution.resources import computing
from dcam_fast.explainer import Explainer
from dcam_fast.explanation import Explanation
from dcam_fast.interruption import checked
from dcam_fast.models.adapter import DEFAULT_GENERATION, NO_MASK, OPEN, Adapter, Inputs, Trajectory
from dcam_fast.models.generation import Generation
from dcam_fast.models.given import AnswerLike
from dcam_fast.service.errors import too_late
from dcam_fast.service.worker import Job
from dcam_fast.session import TargetsLike


@dataclass(frozen=True, eq=False)
class ExplanationRequest:
    """The arguments of `Explainer.explain`, from a request.

    Attributes:
        image: uint8 `[H, W, 3]`.
        prompt: the question, None for the model's default prompt.
        answer: the answer to explain; None: the model answers.
        targets: as in `Explainer.explain`.
        method: the name of a method.
        profile: the name of a profile, None for the method's.
        generation: how the model answers.
        scores: whether targets have scores.
        budget_ms: from submitting the job to its result.
    """

    image: NDArray[np.uint8]
    prompt: str | None = None
    answer: AnswerLike | None = None
    targets: TargetsLike = "content"
    method: str = "default"
    profile: str | None = None
    generation: Generation = DEFAULT_GENERATION
    scores: bool = True
    budget_ms: float | None = None


@dataclass(frozen=True)
class WrittenAnswer:
    """An answer, whole or so far.

    Attributes:
        text: up to the first masked position while it is being written, then all of it.
        length: tokens of it.
        is_complete: whether the model ended it with an end token; else the canvas is full.
        prompt_tokens: of the image and the prompt.
        seconds: that its generation took so far.
        trajectory: how it was written.
    """

    text: str
    length: int
    is_complete: bool
    prompt_tokens: int
    seconds: float
    trajectory: Trajectory


def explain(explainer: Explainer, request: ExplanationRequest, job: Job) -> Explanation:
    """An explanation.

    Raises:
        ServiceError: 504 if the budget was spent before the work began.
    """
    budget_ms = None if request.budget_ms is None else request.budget_ms - 1000 * job.seconds_so_far()
    if budget_ms is not None and budget_ms <= 0:
        raise too_late()
    explanation = explainer.explain(
        request.image,
        request.prompt,
        request.targets,
        answer=request.answer,
        method=request.method,
        profile=request.profile,
        generation=request.generation,
        scores=request.scores,
        budget_ms=budget_ms,
    )
    return on_cpu(explanation)


def stream(explainer: Explainer, request: ExplanationRequest, job: Job) -> Explanation:
    """An explanation from the maps of the steps, which are emitted one by one."""
    steps = explainer.stream(
        request.image, request.prompt, method=request.method, profile=request.profile, generation=request.generation
    )
    try:
        for step in checked(steps):
            job.emit(step)
        return on_cpu(steps.explanation(request.targets, scores=request.scores))
    finally:
        steps.close()


def answer(explainer: Explainer, request: ExplanationRequest, job: Job) -> WrittenAnswer:
    """An answer without an explanation; what stands fast of it is emitted after every step."""
    adapter = explainer.adapter
    with computing(adapter, explainer.resources):
        inputs = explainer.encode(request.image, request.prompt)
        written, prompt_tokens, started = None, 0, time.perf_counter()
        for trajectory in checked(adapter.denoise(inputs, request.generation)):
            prompt_tokens = prompt_tokens or count_prompt_tokens(adapter, inputs, trajectory)
            written = _written(adapter, trajectory, prompt_tokens, time.perf_counter() - started)
            job.emit(written)
    assert written is not None, "an answer has at least one step"
    finished = written.trajectory  # in which some models leave masks
    text = adapter.decode(finished.tokens[: finished.length])
    return replace(written, text=text, length=finished.length)


def _written(adapter: Adapter[Any], trajectory: Trajectory, prompt_tokens: int, seconds: float) -> WrittenAnswer:
    assert trajectory.steps is not None, "the model wrote it"
    steps = trajectory.steps[: trajectory.length].tolist()
    length = steps.index(OPEN) if OPEN in steps else len(steps)
    return WrittenAnswer(
        text=adapter.decode(trajectory.tokens[:length]),
        length=length,
        is_complete=trajectory.length < len(trajectory.tokens),
        prompt_tokens=prompt_tokens,
        seconds=seconds,
        trajectory=trajectory,
    )


def writes_for_good(adapter: Adapter[Any]) -> bool:
    """Whether a token that is written stays: models without a mask token may take it back."""
    return adapter.mask_token != NO_MASK


def count_prompt_tokens(adapter: Adapter[Any], inputs: Inputs, trajectory: Trajectory) -> int:
    """How many rows of the model's input the image and the prompt have, padding included."""
    canvases = trajectory.tokens[None] if trajectory.canvases is None else trajectory.canvases[-1:]
    hidden = adapter.embed(inputs, canvases)
    return hidden.image.shape[1] - (len(trajectory.tokens) if hidden.canvas is None else 0)


def first_tokens(adapter: Adapter[Any], written: WrittenAnswer, count: int) -> str:
    """The text of the first tokens of an answer."""
    return adapter.decode(written.trajectory.tokens[: min(count, written.length)])


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stops.

    >>> cut_at("a ring. a disk.", ["disk", "."])
    'a ring'
    """
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]


def on_cpu(explanation: Explanation) -> Explanation:
    """The same explanation with its tensors in the memory of the process."""
    tensors = {name: getattr(explanation, name).cpu() for name in ("maps", "raw_maps", "boxes")}
    return replace(explanation, **tensors)
