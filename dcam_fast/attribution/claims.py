"""What an explanation claims: the five points that an attribution should state (arXiv 2605.23080)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dcam_fast.attribution.answer import Answer
from dcam_fast.attribution.answer_states import State
from dcam_fast.attribution.contrasts import ContrastedWord
from dcam_fast.attribution.methods.protocol import AttributionMethod
from dcam_fast.attribution.scores import DEFINITIONS
from dcam_fast.attribution.scores import STATE as SCORED_STATE
from dcam_fast.models.adapter import Word

Point = dict[str, object]

STATES: Final[dict[State | None, str]] = {
    "remask": "The canvas is the finished answer with the token masked again.",
    "committed": "The canvas is the answer as it was just before the token was written.",
    "first": "The canvas is the answer with every position masked.",
    "final": "The canvas is the finished answer.",
    None: "The model does not run.",
}
TOPOLOGIES: Final = {
    "prefix": "Image and prompt do not attend to the answer.",
    "joint": "Image, prompt and answer attend to each other.",
}


def claims(answer: Answer, method: AttributionMethod, words: Sequence[Word], scored: bool) -> dict[str, Point]:
    """The output explained, the eligible features, the process assumed, what is held fixed, and the score.

    Args:
        answer: that is explained.
        method: that made the raw maps.
        words: that have maps.
        scored: whether targets have the scores that take passes.

    Returns:
        For each of the five a sentence or two, `"text"`, and the facts in it as JSON values.
    """
    claim, view = method.claim, answer.view
    h, w = view.cells.shape
    attention = "prefix" if answer.adapter.has_two_streams else "joint"
    state = STATES.get(claim.state, f"The canvas is the answer as it was at step {claim.state}.")
    layer = answer.layers(method.target_layers)[0]
    text = f"The value of a cell is {claim.score}. A word has the mean map of its tokens, refined by the profile."
    contrasts = [f"{word.text} > {word.instead}" for word in words if isinstance(word, ContrastedWord)]
    output = f"What is explained is {claim.output}."
    if contrasts:
        output += " A contrast explains the sum of it over the word, less that over the other word in its place."
    compared = {"contrasts": contrasts} if contrasts else {}
    scores = {"layer": layer, "state": SCORED_STATE, **DEFINITIONS} if scored else {}
    return {
        "output": {"text": output, "answer": answer.adapter.decode(answer.tokens), **compared},
        "features": {
            "text": f"A map can point at the {h} x {w} cells of the view {view.name!r} and at nothing else.",
            "view": view.name,
            "rows": h,
            "columns": w,
        },
        "process": {"text": f"{TOPOLOGIES[attention]} {state}", "attention": attention, "state": claim.state},
        "held_fixed": {
            "text": "The weights, the prompt and the tokens of the canvas stay as they are.",
            "prompt": answer.inputs.prompt,
        },
        "score": {"text": text, **scores},
    }
