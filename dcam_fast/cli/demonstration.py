"""The demo: scenes, the answers of the embedded model, and their explanations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dcam_fast import scenes
from dcam_fast.explanation import Explanation
from dcam_fast.folders import files_of, replacing, write_json, write_text
from dcam_fast.output.files import IMAGE, PAGE, SHEET
from dcam_fast.output.html import css_color, render
from dcam_fast.output.pictures import contact_sheet, groundedness_color

if TYPE_CHECKING:
    from dcam_fast.explainer import Explainer

SCHEMA: Final = 1
RECORD: Final = "demo.json"
INDEX: Final = "index.html"
QUESTIONS_PER_SCENE: Final = 2


@dataclass(frozen=True)
class Round:
    """A prompt about a scene.

    Attributes:
        folder: of its explanation, in the folder of the demo.
        scene: the scene.
        prompt: the question.
        expected: the correct answer.
    """

    folder: str
    scene: scenes.Scene
    prompt: str
    expected: str

    def is_right(self, answer: str) -> bool:
        """Whether an answer is correct, regardless of white space."""
        return "".join(answer.split()) == "".join(self.expected.split())


def draw_rounds(count: int, seed: int, hard: bool = False) -> list[Round]:
    """The caption of each of `count` scenes and two questions, whose kinds vary from scene to scene."""
    rng = np.random.default_rng(seed)
    drawn: list[Round] = []
    for number in range(count):
        scene = scenes.sample_scene(rng, hard=hard)
        dialogues = [("caption", scenes.caption(scene))]
        for turn in range(len(scenes.QUESTIONS)):
            kind = scenes.QUESTIONS[(QUESTIONS_PER_SCENE * number + turn) % len(scenes.QUESTIONS)]
            question = scenes.question(rng, scene, kind)
            if question is not None and len(dialogues) <= QUESTIONS_PER_SCENE:
                dialogues.append((kind, question))
        drawn += [
            Round(f"scene-{number + 1:02d}/{kind}", scene, dialogue.prompt, " ".join(dialogue.answer))
            for kind, dialogue in dialogues
        ]
    return drawn


def run(explainer: Explainer, rounds: list[Round], out: Path, report: Callable[[Round, Explanation], None]) -> None:
    """Explains every round and writes a folder for each, an index page and a contact sheet, all or none.

    Args:
        explainer: of the embedded model.
        rounds: from `draw_rounds`.
        out: the folder. An earlier demo in it is replaced.
        report: called after each round.

    Raises:
        FileExistsError: if `out` has anything but an earlier demo.
    """
    with replacing(out, "demo", RECORD) as draft:
        finished = []
        for current in rounds:
            explanation = explainer.explain(current.scene.image, current.prompt)
            explanation.save(draft / current.folder)
            finished.append((current, explanation))
            report(current, explanation)
        captions = [explanation for current, explanation in finished if current.folder.endswith("/caption")]
        contact_sheet(captions).save(draft / SHEET)
        write_text(draft / INDEX, _index(finished))
        record = {
            "schema": SCHEMA,
            "rounds": [
                {
                    "folder": current.folder,
                    "prompt": current.prompt,
                    "answer": explanation.answer,
                    "expected": current.expected,
                }
                for current, explanation in finished
            ],
            "files": [RECORD, *files_of(draft)],
        }
        write_json(draft / RECORD, record)


def _pieces(explanation: Explanation) -> list[tuple[str, str]]:
    """The answer in parts, each with the color of its target's groundedness, or "" between targets."""
    scores = [target.groundedness for target in explanation.targets]
    return [
        (piece.text, "" if piece.target is None else css_color(groundedness_color(scores[piece.target])))
        for piece in explanation.pieces()
    ]


def _index(finished: list[tuple[Round, Explanation]]) -> str:
    cards: dict[str, dict[str, Any]] = {}
    for item, explanation in finished:
        card = cards.setdefault(item.folder.partition("/")[0], {"image": f"{item.folder}/{IMAGE}", "rounds": []})
        card["rounds"].append(
            {
                "page": f"{item.folder}/{PAGE}",
                "prompt": item.prompt,
                "pieces": _pieces(explanation),
                "correction": "" if item.is_right(explanation.answer) else item.expected,
            }
        )
    return render("demo.html", cards=cards.values(), sheet=SHEET)
