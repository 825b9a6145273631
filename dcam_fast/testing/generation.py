"""Checks of answers: generated, stepped, given and split into words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from dcam_fast.models.adapter import NO_MASK, OPEN, AdapterError
from dcam_fast.testing.cases import Case, canvases_at, logits_of, same_answer
from dcam_fast.words import is_sign


def check_trajectory(case: Case) -> Iterator[str]:
    """A finished answer has tokens and steps that fit together, and no masks."""
    tokens, steps, length = case.trajectory.tokens, case.trajectory.steps, case.trajectory.length
    if steps is None:
        yield "generate: steps must be those of the generation, got None"
        return
    if tokens.ndim != 1 or tokens.shape != steps.shape or tokens.dtype != torch.int64 or steps.dtype != torch.int64:
        yield f"generate: tokens and steps must be int64 [L], got {list(tokens.shape)} and {list(steps.shape)}"
        return
    if not 0 <= length <= len(tokens):
        yield f"generate: length must be 0 to {len(tokens)}, got {length}"
    canvases = case.trajectory.canvases
    if bool((steps < 0).any() or (steps == OPEN).any()):
        yield "generate: steps must be 0 or more and none open in a finished answer, got others"
    elif canvases is not None and int(steps.max()) >= len(canvases):
        yield f"generate: steps must be below {len(canvases)}, the number of canvases, got {int(steps.max())}"
    if case.adapter.mask_token == NO_MASK and canvases is None:
        yield "generate: the trajectory of a family without a mask token must have its canvases, got none"
    if canvases is None and case.adapter.mask_token in tokens.tolist():
        yield "generate: tokens of a finished answer must not be the mask token, got some that are"


def check_determinism(case: Case) -> Iterator[str]:
    """The same question has the same answer, and the same states the same logits."""
    again = case.adapter.generate(case.adapter.encode(case.image, case.inputs.prompt))
    if not same_answer(again, case.trajectory):
        yield "generate: the same question must have the same answer, got another the second time"
    canvas = canvases_at(case, "remask")
    if not logits_of(case, canvas).equal(logits_of(case, canvas)):
        yield "layer: the same states must give the same logits, got others the second time"


def check_replay(case: Case) -> Iterator[str]:
    """At the state in which a token was unmasked, the model's best guess must be that token."""
    count = len(case.trajectory.tokens)
    logits = torch.cat([logits_of(case, canvas[None]) for canvas in canvases_at(case, "committed", count)])
    chosen = logits[torch.arange(count), torch.arange(count)]
    if case.adapter.mask_token != NO_MASK:
        chosen[:, case.adapter.mask_token] = -torch.inf
    wrong = (chosen.argmax(-1) != case.trajectory.tokens)[: max(case.trajectory.length, 1)]
    if bool(wrong.any()):
        yield (
            "replay: at the state that committed a token the model must prefer that token, as it did in generation, "
            f"got others at positions {wrong.nonzero().flatten().tolist()}"
        )


def check_stepping(case: Case) -> Iterator[str]:
    """Tokens that are committed stay, and the last step has the answer of `generate`."""
    last = None
    try:
        for so_far in case.adapter.denoise(case.inputs):
            if last is not None:
                before, now = last.known_steps("committed"), so_far.known_steps("committed")
                kept = before != OPEN
                if case.adapter.mask_token == NO_MASK:  # such a family may take tokens back
                    kept &= before == now
                if bool(((now != before) | (so_far.tokens != last.tokens))[kept].any()):
                    yield "denoise: a committed token must stay committed at its step, got one that did not"
                    return
            last = so_far
    except AdapterError:
        return  # stepping is optional
    if last is None or not same_answer(last, case.trajectory):
        yield "denoise: the last trajectory must be that of generate, got another"


def check_given(case: Case) -> Iterator[str]:
    """The generated tokens, given, must be the answer that generation left, at every state that needs no steps."""
    finished, count = case.trajectory, len(case.trajectory.tokens)
    try:
        given = case.adapter.given(finished.tokens.tolist())
    except AdapterError:
        return  # given answers are optional
    if not given.tokens.equal(finished.tokens) or given.length != finished.length or given.steps is not None:
        yield "given: the tokens of a whole canvas must be kept, with the length of the text and no steps, got others"
        return
    for state in ("remask", "first", "final"):
        if not canvases_at(replace(case, trajectory=given), state, count).equal(canvases_at(case, state, count)):
            yield f"given: the state {state!r} of the generated tokens must be that of the generation, got another"


def check_words(case: Case) -> Iterator[str]:
    """Words hold all tokens that are read, in order."""
    length = case.trajectory.length
    runs = [word.positions for word in case.adapter.words(case.trajectory)]
    held = {position for run in runs for position in run}
    texts = (case.adapter.decode(case.trajectory.tokens[position : position + 1]) for position in range(length))
    spoken = {position for position, text in enumerate(texts) if not is_sign(text)}
    in_order = all(run and list(run) == sorted(set(run)) for run in runs) and runs == sorted(runs, key=min)
    if not in_order or not spoken <= held <= set(range(length)):
        yield (
            f"words: positions must be from 0 to {length - 1}, in order, and hold every token with a letter or digit, "
            f"got {runs}"
        )
    if not isinstance(case.adapter.decode(case.trajectory.tokens), str):
        yield "decode: text must be a str, got something else"
