"""The demonstration: scenes, what the embedded model answers about them, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
SCENES_RECORD: Final = "scenes.json"
QUESTIONS_PER_SCENE: Final = 2


@dataclass(frozen=True)
class Round:
    """One prompt about one scene: where its explanation goes (in the demo's folder), and the right answer."""

    folder: str
    scene: scenes.Scene
    prompt: str
    expected: str

    def is_right(self, answer: str) -> bool:
        """Whether an answer is the right one, however its punctuation is set."""
        return "".join(answer.split()) == "".join(self.expected.split())


def rounds(count: int, seed: int, hard: bool = False) -> list[Round]:
    """The caption of each of `count` scenes, plain or `hard`, and two questions, of other kinds from scene to
    scene."""
    rng = np.random.default_rng(seed)
    drawn: list[Round] = []
    for number in range(count):
        scene = scenes.sample_scene(rng, hard=hard)
        dialogues = [("caption", scenes.caption(scene))]
        for turn in range(len(scenes.QUESTIONS)):
            kind = scenes.QUESTIONS[(QUESTIONS_PER_SCENE * number + turn) % len(scenes.QUESTIONS)]
            asked = scenes.question(rng, scene, kind)
            if asked is not None and len(dialogues) <= QUESTIONS_PER_SCENE:
                dialogues.append((kind, asked))
        drawn += [
            Round(f"scene-{number + 1:02d}/{kind}", scene, dialogue.prompt, " ".join(dialogue.answer))
            for kind, dialogue in dialogues
        ]
    return drawn


def run(explainer: Explainer, plan: list[Round], out: Path, report: Callable[[Round, Explanation], None]) -> None:
    """Explains every round and writes a folder for each into `out`, with an index page and one picture of all.

    Whole or not at all; an earlier demo in `out` is replaced.

    Args:
        explainer: of the embedded model.
        plan: from `rounds`.
        out: the folder.
        report: called after each round.

    Raises:
        FileExistsError: `out` holds anything but an earlier demo.
    """
    with replacing(out, "demo", RECORD) as draft:
        done = []
        for one in plan:
            explanation = explainer.explain(one.scene.image, one.prompt)
            explanation.save(draft / one.folder)
            done.append((one, explanation))
            report(one, explanation)
        captions = [explanation for one, explanation in done if one.folder.endswith("/caption")]
        contact_sheet(captions).save(draft / SHEET)
        write_text(draft / INDEX, _index(done))
        record = {
            "schema": SCHEMA,
            "rounds": [
                {"folder": one.folder, "prompt": one.prompt, "answer": explanation.answer, "expected": one.expected}
                for one, explanation in done
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
            wrong = f'<small class="wrong">right is: {escape(one.expected)}</small>'
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


def write_scenes(out: Path, count: int, seed: int, hard: bool) -> None:
    """Writes `count` scenes, plain or `hard`, into `out`: a PNG for each, a mask for each object, and scenes.json
    about all of them.

    Raises FileExistsError where `out` holds anything but an earlier lot of scenes.
    """
    rng = np.random.default_rng(seed)
    with replacing(out, "scenes", SCENES_RECORD) as draft:
        facts = []

        def write(name: str, pixels: NDArray[np.uint8]) -> str:
            Image.fromarray(pixels).save(draft / name)
            return name

        for number in range(1, count + 1):
            scene = scenes.sample_scene(rng, hard=hard)
            asked = [scenes.question(rng, scene, kind) for kind in scenes.QUESTIONS]
            dialogues = [scenes.caption(scene), *(one for one in asked if one)]
            facts.append(
                {
                    "image": write(f"scene-{number:02d}.png", scene.image),
                    "background": scene.background,
                    "objects": [
                        {
                            "shape": item.shape,
                            "color": item.color,
                            "size": item.size,
                            "x": item.x,
                            "y": item.y,
                            "radius": item.radius,
                            "mask": write(f"scene-{number:02d}-mask-{place}.png", item.mask.astype(np.uint8) * 255),
                        }
                        for place, item in enumerate(scene.objects, 1)
                    ],
                    "caption": " ".join(dialogues[0].answer),
                    "dialogues": [{"prompt": one.prompt, "answer": " ".join(one.answer)} for one in dialogues],
                }
            )
        record = {"schema": SCHEMA, "seed": seed, "hard": hard, "scenes": facts}
        write_json(draft / SCENES_RECORD, record | {"files": [SCENES_RECORD, *files_of(draft)]})
