"""The demo: scenes, the answers of the embedded model, and their explanations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from dcam_fast import scenes
from dcam_fast.explanation import Explanation
from dcam_fast.folders import files_of, replacing, write_json, write_text
from dcam_fast.output.files import IMAGE, PAGE, SHEET
from dcam_fast.output.html import css_color, fill
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


def _words(explanation: Explanation) -> str:
    """The answer as HTML, its targets underlined in the color of their groundedness."""
    marked = (
        escape(piece.text)
        if piece.target is None
        else f'<b style="--c:{css_color(groundedness_color(explanation.targets[piece.target].groundedness))}">'
        f"{escape(piece.text)}</b>"
        for piece in explanation.pieces()
    )
    return "".join(marked)


def _index(done: list[tuple[Round, Explanation]]) -> str:
    def card(entries: list[tuple[Round, Explanation]]) -> Iterator[str]:
        yield f'<article><img src="{entries[0][0].folder}/{IMAGE}" alt="" width="160" height="160"><div>'
        for one, explanation in entries:
            wrong = f'<small class="wrong">correct: {escape(one.expected)}</small>'
            mark = "" if one.is_right(explanation.answer) else wrong
            yield (
                f'<a href="{one.folder}/{PAGE}"><small>{escape(one.prompt)}</small>'
                f"<span>{_words(explanation)}</span>{mark}</a>"
            )
        yield "</div></article>"

    folders: dict[str, list[tuple[Round, Explanation]]] = {}
    for entry in done:
        folders.setdefault(entry[0].folder.partition("/")[0], []).append(entry)
    cards = "\n".join("".join(card(entries)) for entries in folders.values())
    return fill("demo.html", {"cards": cards, "sheet": SHEET})
