"""Accuracy of the embedded model on held-out scenes: `python -m dcam_fast.models.tiny.accuracy`."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from dcam_fast import scenes
from dcam_fast.models.generation import Generation
from dcam_fast.models.tiny import WEIGHTS
from dcam_fast.models.tiny.modeling import Attention, TinyForMaskedDiffusion
from dcam_fast.models.tiny.processing import EOS, PAD, encode_words, to_pixel_values

HELD_OUT_SEED = 20_260_000  # training draws from seeds 1 and 11
BATCH = 50


def held_out_scenes(count: int, seed: int = HELD_OUT_SEED, hard: bool = False) -> list[scenes.Scene]:
    """`count` scenes on the full canvas, plain or hard."""
    rng = np.random.default_rng(seed)
    return [scenes.sample_scene(rng, hard=hard) for _ in range(count)]


def dialogues(
    drawn: list[scenes.Scene], kind: str, seed: int = HELD_OUT_SEED
) -> list[tuple[scenes.Scene, scenes.Dialogue]]:
    """The dialogues of one kind, for each scene that has an unambiguous one.

    Args:
        drawn: the scenes.
        kind: `"caption"`, or one of `scenes.QUESTIONS` and `scenes.RELATIONS`.
        seed: of the questions.
    """
    rng = np.random.default_rng(seed + 1)
    pairs = [
        (scene, scenes.caption(scene) if kind == "caption" else scenes.question(rng, scene, kind)) for scene in drawn
    ]
    return [(scene, dialogue) for scene, dialogue in pairs if dialogue is not None]


def exact_matches(
    model: TinyForMaskedDiffusion,
    pairs: list[tuple[scenes.Scene, scenes.Dialogue]],
    steps: int | None,
    attention: Attention,
) -> list[bool]:
    """For each dialogue, whether the model's answer is exactly the correct one.

    Args:
        model: the model.
        pairs: from `dialogues`.
        steps: denoising steps; None for one token a step.
        attention: the topology.
    """
    config = model.config
    right: list[bool] = []
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        pixels = to_pixel_values(np.stack([scene.image for scene, _ in batch]))
        prompts = torch.tensor([encode_words(pair[1].prompt.split(), config.prompt_length, PAD) for pair in batch])
        answers = torch.tensor([encode_words(pair[1].answer, config.answer_length, EOS) for pair in batch])
        tokens = model.generate(pixels, prompts, Generation(steps), attention).tokens
        right += (tokens == answers).all(1).tolist()
    return right


def measure(path: Path, count: int, steps: int | None, attention: Attention, hard: bool) -> dict[str, dict[str, float]]:
    """Share of exact answers and number of dialogues, for each kind and for captions by number of objects.

    Args:
        path: folder of the weights.
        count: number of scenes.
        steps: denoising steps; None for one token a step.
        attention: the topology.
        hard: measure on hard scenes.
    """
    model = TinyForMaskedDiffusion.from_pretrained(path).float().eval()
    drawn = held_out_scenes(count, hard=hard)
    table = {}
    for kind in ("caption", *scenes.QUESTIONS, *scenes.RELATIONS):
        pairs = dialogues(drawn, kind)
        right = exact_matches(model, pairs, steps, attention)
        table[kind] = {"exact": sum(right) / len(right), "count": len(right)}
        if kind == "caption":
            by_objects = defaultdict(list)
            for (scene, _), correct in zip(pairs, right, strict=True):
                by_objects[len(scene.objects)].append(correct)
            for objects, matches in sorted(by_objects.items()):
                table[f"caption, {objects} object{'s' * (objects > 1)}"] = {
                    "exact": sum(matches) / len(matches),
                    "count": len(matches),
                }
    return table


def main(
    weights: Annotated[Path, typer.Option(help="Folder of the weights.")] = WEIGHTS,
    count: Annotated[int, typer.Option(help="Number of plain and of hard scenes.")] = 500,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. Default: one token a step.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Print the share of exact answers by kind: on plain scenes with both topologies, and on hard scenes."""
    tables = {
        "plain, prefix": measure(weights, count, steps, "prefix", False),
        "plain, joint": measure(weights, count, steps, "joint", False),
        "hard, prefix": measure(weights, count, steps, "prefix", True),
    }
    for title, table in tables.items():
        typer.echo(f"\nexact answers, {title} attention")
        for kind, cell in table.items():
            typer.echo(f"{kind:24}{cell['exact']:8.1%} of{cell['count']:6.0f}")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(
            json.dumps({"scenes": count, "seed": HELD_OUT_SEED, "steps": steps, "accuracy": tables}, indent=1) + "\n"
        )


if __name__ == "__main__":
    typer.run(main)
