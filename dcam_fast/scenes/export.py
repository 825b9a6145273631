"""Scenes as files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dcam_fast.folders import files_of, replacing, write_json
from dcam_fast.scenes.drawing import QUESTIONS, caption, question, sample_scene

SCHEMA: Final = 1
RECORD: Final = "scenes.json"


def write_scenes(out: Path, count: int, seed: int, hard: bool) -> None:
    """Writes a PNG for each scene, a mask for each object, and `RECORD`, which describes them all.

    Args:
        out: the folder, made if it does not exist. Earlier scenes in it are replaced.
        count: number of scenes.
        seed: of the scenes.
        hard: draw hard scenes.

    Raises:
        FileExistsError: if `out` has anything but earlier scenes.
    """
    rng = np.random.default_rng(seed)
    with replacing(out, "scenes", RECORD) as draft:
        facts = []

        def write(name: str, pixels: NDArray[np.uint8]) -> str:
            Image.fromarray(pixels).save(draft / name)
            return name

        for number in range(1, count + 1):
            scene = sample_scene(rng, hard=hard)
            questions = [question(rng, scene, kind) for kind in QUESTIONS]
            dialogues = [caption(scene), *filter(None, questions)]
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
                            "mask": write(f"scene-{number:02d}-mask-{index}.png", item.mask.astype(np.uint8) * 255),
                        }
                        for index, item in enumerate(scene.objects, 1)
                    ],
                    "caption": " ".join(dialogues[0].answer),
                    "dialogues": [
                        {"prompt": dialogue.prompt, "answer": " ".join(dialogue.answer)} for dialogue in dialogues
                    ],
                }
            )
        record = {"schema": SCHEMA, "seed": seed, "hard": hard, "scenes": facts}
        write_json(draft / RECORD, record | {"files": [RECORD, *files_of(draft)]})
