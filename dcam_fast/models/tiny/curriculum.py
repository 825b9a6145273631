"""The curriculum of the embedded model: which data its training sees, in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

QUESTIONS = {
    "color": 0.16,
    "object": 0.22,
    "absent": 0.10,
    "count": 0.06,
    "background": 0.06,
    "left": 0.20,
    "right": 0.20,
}
RELATIONS_ONLY = {"left": 0.45, "right": 0.45, "object": 0.10}


@dataclass(frozen=True)
class TrainingPhase:
    """Training steps with the same distribution of data.

    Attributes:
        steps: number of steps.
        batch: scenes in a step.
        canvases: sizes (height, width) in pixels, of which one is drawn for each step.
        objects: minimum and maximum number of objects of a scene that is not hard.
        maskings: number of masked versions of each answer, in one packed sequence.
        questions: share of scenes with a question.
        joint: share of steps with joint attention.
        hard: share of hard scenes.
        kinds: kinds of questions and their shares.
    """

    steps: int
    batch: int
    canvases: tuple[tuple[int, int], ...]
    objects: tuple[int, int]
    maskings: int = 4
    questions: float = 0.0
    joint: float = 0.0
    hard: float = 0.0
    kinds: Mapping[str, float] = field(default_factory=lambda: QUESTIONS)


FULL = (128, 128)
MIXED = (FULL, FULL, FULL, FULL, FULL, (96, 128), (128, 96), (112, 128))
TOWER = (TrainingPhase(800, 64, ((64, 64),), (1, 1)), TrainingPhase(700, 48, ((96, 96),), (1, 3)))
DENOISER = (
    TrainingPhase(220, 48, ((64, 64),), (1, 1)),
    TrainingPhase(220, 48, ((96, 96),), (1, 2), questions=0.15),
    TrainingPhase(360, 48, ((96, 96), (96, 96), (80, 112), (112, 112)), (1, 3), questions=0.25),
    TrainingPhase(900, 40, MIXED, (1, 4), questions=0.35),
    TrainingPhase(1100, 40, MIXED, (1, 4), questions=0.35, joint=0.25),
)
HARDER = (TrainingPhase(1100, 40, MIXED, (1, 4), questions=0.35, joint=0.25, hard=0.6),)
RELATIONS = (TrainingPhase(1500, 40, MIXED, (1, 4), questions=0.55, joint=0.25, hard=0.6),)
BESIDE = (
    TrainingPhase(400, 48, ((96, 96), (80, 112)), (2, 2), questions=0.8, joint=0.1, kinds=RELATIONS_ONLY),
    TrainingPhase(300, 40, MIXED, (2, 3), questions=0.6, joint=0.2, kinds=RELATIONS_ONLY),
    TrainingPhase(600, 40, MIXED, (1, 4), questions=0.5, joint=0.25, hard=0.5),
)


@dataclass(frozen=True)
class TrainingStage:
    """A training run from the averaged weights of the stage before it.

    Attributes:
        name: of its checkpoint file.
        phases: its steps.
        seed: of its data.
        rate: factor on the learning rates.
    """

    name: str
    phases: tuple[TrainingPhase, ...]
    seed: int
    rate: float


STAGES = (
    TrainingStage("denoiser", DENOISER, 1, 1.0),
    TrainingStage("harder", HARDER, 2, 0.5),
    TrainingStage("relations", RELATIONS, 3, 0.5),
    TrainingStage("beside", BESIDE, 4, 0.5),
)
