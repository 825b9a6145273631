"""Trains the embedded model from nothing: `dcam-fast train-tiny`.

Five stages, all counted in steps and seeded, so that a run on the same machine and torch gives the same weights:

1. The vision tower alone learns which words the caption of a scene contains, from the words alone (no masks, no
   positions). It plays the part that a pretrained encoder plays in a large model; without it the language model learns
   nothing but word priors.
2. The whole model learns to denoise captions and answers (LLaDA's objective), on a curriculum of growing canvases.
3. It learns to read the hard scenes too: from the averaged weights, with fresh optimizers.
4. The same, with more questions: what is beside what takes longest to learn.
5. Mostly questions about what is beside what, first in scenes of two objects, then in larger ones.

A stage is saved every `SAVE_EVERY` steps and goes on from there when started again with the same folder.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from dcam_fast import scenes
from dcam_fast.folders import check_writable, replacing
from dcam_fast.models.tiny.modeling import CELL, TinyConfig, TinyForMaskedDiffusion, VisionTower
from dcam_fast.models.tiny.processing import (
    EOS,
    MASK,
    PAD,
    TOKENIZER,
    VOCABULARY,
    build_tokenizer,
    encode_words,
    to_pixel_values,
)
from dcam_fast.scenes.textures import TEXTURES

SAVE_EVERY = 100
QUESTIONS = {
    "color": 0.16,
    "object": 0.22,
    "absent": 0.10,
    "count": 0.06,
    "background": 0.06,
    "left": 0.20,
    "right": 0.20,
}
SIDES = {"left": 0.45, "right": 0.45, "object": 0.10}
CONTENT = VOCABULARY.index(scenes.SHAPES[0])  # words from here on name something in the image


@dataclass(frozen=True)
class Phase:
    """Some steps of one kind. `canvases`: sizes (height, width) in pixels, one drawn per step. `objects`: fewest
    and most per scene, in hard ones two and six. `maskings`: of each answer, in one packed sequence. `questions`,
    `joint`, `hard`: shares of scenes that come with a question, of steps with joint attention, of hard scenes.
    `kinds`: of questions, with their shares."""

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
TOWER = (Phase(800, 64, ((64, 64),), (1, 1)), Phase(700, 48, ((96, 96),), (1, 3)))
DENOISER = (
    Phase(220, 48, ((64, 64),), (1, 1)),
    Phase(220, 48, ((96, 96),), (1, 2), questions=0.15),
    Phase(360, 48, ((96, 96), (96, 96), (80, 112), (112, 112)), (1, 3), questions=0.25),
    Phase(900, 40, MIXED, (1, 4), questions=0.35),
    Phase(1100, 40, MIXED, (1, 4), questions=0.35, joint=0.25),
)
HARDER = (Phase(1100, 40, MIXED, (1, 4), questions=0.35, joint=0.25, hard=0.6),)
RELATIONS = (Phase(1500, 40, MIXED, (1, 4), questions=0.55, joint=0.25, hard=0.6),)
BESIDE = (
    Phase(400, 48, ((96, 96), (80, 112)), (2, 2), questions=0.8, joint=0.1, kinds=SIDES),
    Phase(300, 40, MIXED, (2, 3), questions=0.6, joint=0.2, kinds=SIDES),
    Phase(600, 40, MIXED, (1, 4), questions=0.5, joint=0.25, hard=0.5),
)


@dataclass(frozen=True)
class Stage:
    """A run of its own: its file, its steps, its seed, and its learning rates as a share of the full ones."""

    name: str
    phases: tuple[Phase, ...]
    seed: int
    rate: float


STAGES = (
    Stage("denoiser", DENOISER, 1, 1.0),
    Stage("harder", HARDER, 2, 0.5),
    Stage("relations", RELATIONS, 3, 0.5),
    Stage("beside", BESIDE, 4, 0.5),
)
TOWER_RATE, MUON_RATE, ADAM_RATE = 3e-3, 2e-2, 3e-3
WARMUP, DECAY, FLOOR = 50, 0.40, 0.02  # steps; share of the run over which the rate falls linearly; to this share


def schedule(step: int, total: int) -> float:
    """Learning rate at `step` as a share of the peak: linear warm-up, constant, linear decay."""
    decay = (total - step) / (DECAY * total)
    return min(1.0, (step + 1) / WARMUP, max(FLOOR, decay))


def _plan(phases: tuple[Phase, ...]) -> list[Phase]:
    return [phase for phase in phases for _ in range(phase.steps)]


def _offset(rng: np.random.Generator, canvas: tuple[int, int], grid: int) -> tuple[int, int]:
    """Where in the largest grid a smaller canvas sits: all row and column embeddings get their share of training."""
    row, column = (int(rng.integers(grid - side // CELL + 1)) for side in canvas)
    return row, column


def draw_dialogue(rng: np.random.Generator, scene: scenes.Scene, phase: Phase) -> scenes.Dialogue:
    """The caption of a scene or, with a phase's probability, a question that it answers without ambiguity."""
    if rng.random() < phase.questions:
        kind = str(rng.choice(list(phase.kinds), p=list(phase.kinds.values())))
        return scenes.question(rng, scene, kind) or scenes.caption(scene)
    return scenes.caption(scene)


def _draw_scenes(rng: np.random.Generator, phase: Phase) -> tuple[list[scenes.Scene], Tensor, tuple[int, int]]:
    canvas = phase.canvases[rng.integers(len(phase.canvases))]
    low, high = phase.objects
    drawn = [
        scenes.sample_scene(rng, *canvas, hard=True)
        if rng.random() < phase.hard
        else scenes.sample_scene(rng, *canvas, int(rng.integers(low, high + 1)))
        for _ in range(phase.batch)
    ]
    return drawn, to_pixel_values(np.stack([scene.image for scene in drawn])), canvas


class TowerObjective(nn.Module):
    """Which words the caption contains, from cell logits pooled by log-mean-exp; and the background from their mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        shapes, colors, sizes = scenes.SHAPES, tuple(scenes.COLORS), scenes.SIZES
        self.labels: list[tuple[str, ...]] = [(first, shape) for first in (*colors, *sizes) for shape in shapes]
        self.labels += [(word,) for word in (*shapes, *colors)]
        self.words = nn.Linear(channels, len(self.labels))
        self.textures = nn.Linear(channels, len(TEXTURES))
        nn.init.constant_(self.words.bias, -2.0)

    def forward(self, features: Tensor, drawn: list[scenes.Scene]) -> tuple[Tensor, Tensor]:
        """Loss, and the share of scenes whose strongest (color, shape) pair is there."""
        present = [
            {w for o in s.objects for w in ((o.color, o.shape), (o.size, o.shape), (o.shape,), (o.color,))}
            for s in drawn
        ]
        target = torch.tensor([[float(label in words) for label in self.labels] for words in present])
        pooled = self.words(features).float().flatten(1, 2).logsumexp(1) - np.log(
            4.0
        )  # an object covers about four cells
        texture = torch.tensor([TEXTURES.index(scene.background) for scene in drawn])
        texture_logits = self.textures(features).float().flatten(1, 2).mean(1)
        loss = F.binary_cross_entropy_with_logits(pooled, target, reduction="none").sum(1).mean() / 4
        pairs = len(scenes.SHAPES) * len(scenes.COLORS)
        top = target.gather(1, pooled[:, :pairs].argmax(1, keepdim=True)).mean()
        return loss + F.cross_entropy(texture_logits, texture), top


def mask_answers(answers: Tensor, maskings: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Canvases `int64[B, K, L]` with tokens of `answers[B, L]` masked at K stratified rates, and LLaDA's loss
    weights (1 / rate at a masked position, else 0), `float32[B, K, L]`."""
    batch, length = answers.shape
    rate = (torch.arange(maskings) + torch.rand(batch, maskings, generator=generator)) / maskings
    rate = rate.clamp(0.02, 1.0)[..., None]
    masked = torch.rand(batch, maskings, length, generator=generator) < rate
    return torch.where(masked, MASK, answers[:, None]), masked / rate


def _autocast() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


def _clip_and_step(parameters: list[nn.Parameter], optimizers: list[torch.optim.Optimizer], loss: Tensor) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    for optimizer in optimizers:
        optimizer.step()


def train_tower(config: TinyConfig, scale: float) -> dict[str, Tensor]:
    """Stage 1. Returns the tower's weights."""
    rng = np.random.default_rng(11)
    torch.manual_seed(0)
    tower, objective = VisionTower(config), TowerObjective(config.vision_sizes[1])
    parameters = [*tower.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=TOWER_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    plan = _plan(TOWER)[:: round(1 / scale)]
    for step, phase in enumerate(bar := tqdm(plan, "vision tower")):
        optimizer.param_groups[0]["lr"] = TOWER_RATE * schedule(step, len(plan))
        drawn, pixels, canvas = _draw_scenes(rng, phase)
        with _autocast():
            features = tower(pixels, _offset(rng, canvas, config.grid))
            loss, top = objective(features, drawn)
        _clip_and_step(parameters, [optimizer], loss)
        bar.set_postfix(loss=f"{loss.item():.3f}", pair=f"{top.item():.2f}")
    return tower.state_dict()


@dataclass
class Run:
    """Everything that the second stage carries from step to step; `state` and `load` make it resumable."""

    model: TinyForMaskedDiffusion
    average: dict[str, Tensor]
    optimizers: list[torch.optim.Optimizer]
    rng: np.random.Generator
    generator: torch.Generator
    step: int = 0

    @staticmethod
    def start(model: TinyForMaskedDiffusion, stage: Stage) -> Run:
        """A run from the model's weights as they are."""
        matrices: list[nn.Parameter] = []
        tower: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            kind = (
                tower
                if name.startswith("vision")
                else matrices
                if parameter.ndim == 2 and name.startswith("blocks")
                else others
            )
            kind.append(parameter)
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=stage.rate * MUON_RATE, momentum=0.95, weight_decay=0.01),
            torch.optim.AdamW(others, lr=stage.rate * ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01),
            torch.optim.AdamW(tower, lr=stage.rate * 0.3 * ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01),
        ]
        for optimizer in optimizers:
            optimizer.param_groups[0]["peak"] = optimizer.param_groups[0]["lr"]
        average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        seed = stage.seed
        return Run(model, average, optimizers, np.random.default_rng(seed), torch.Generator().manual_seed(seed))

    def state(self) -> dict[str, object]:
        return {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "rng": self.rng.bit_generator.state,
            "generator": self.generator.get_state(),
            "step": self.step,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.rng.bit_generator.state = state["rng"]
        self.generator.set_state(state["generator"])
        self.step = state["step"]

    def advance(self, phase: Phase, total: int) -> dict[str, str]:
        """One step; returns what the progress bar shows."""
        model = self.model
        for optimizer in self.optimizers:
            group = optimizer.param_groups[0]
            group["lr"] = group["peak"] * schedule(self.step, total)
        drawn, pixels, canvas = _draw_scenes(self.rng, phase)
        dialogues = [draw_dialogue(self.rng, scene, phase) for scene in drawn]
        prompts = torch.tensor([_encode_prompt(dialogue.prompt, model.config.prompt_length) for dialogue in dialogues])
        answers = torch.tensor(
            [encode_words(dialogue.answer, model.config.answer_length, EOS) for dialogue in dialogues]
        )
        joint = self.rng.random() < phase.joint
        canvases, weights = mask_answers(answers, 1 if joint else phase.maskings, self.generator)
        with _autocast():
            offset = _offset(self.rng, canvas, model.config.grid)
            logits = model(pixels, prompts, canvases, "joint" if joint else "prefix", offset)
        target = answers[:, None].expand_as(canvases)
        entropy = F.cross_entropy(logits.flatten(0, 2), target.flatten(), reduction="none").view_as(weights)
        loss = (entropy * weights).sum() / weights.numel()
        clipped = [p for optimizer in self.optimizers[1:] for group in optimizer.param_groups for p in group["params"]]
        _clip_and_step(clipped, self.optimizers, loss)
        self.step += 1
        decay = min(0.995, self.step / (self.step + 19))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)
        content = (weights > 0) & (target >= CONTENT)
        right = (logits.argmax(-1) == target)[content].float().mean().item()
        return {"loss": f"{loss.item():.3f}", "content": f"{right:.2f}", "canvas": f"{canvas[0]}x{canvas[1]}"}


def _encode_prompt(prompt: str, length: int) -> list[int]:
    return encode_words(prompt.split(), length, PAD)


def _finish(run: Run, stage: Stage, folder: Path, scale: float) -> None:
    """Advances a run to its end, saving it on the way (atomically: a killed run never leaves half a file)."""
    plan = _plan(stage.phases)[:: round(1 / scale)]
    saved = folder / f"{stage.name}.pt"
    if saved.exists():
        run.load(torch.load(saved, weights_only=False))
    bar = tqdm(total=len(plan), initial=run.step, desc=stage.name)
    while run.step < len(plan):
        shown = run.advance(plan[run.step], len(plan))
        bar.set_postfix(shown)
        bar.update()
        if run.step % SAVE_EVERY == 0 or run.step == len(plan):
            with replacing(folder, "train") as draft:
                torch.save(run.state(), draft / saved.name)
                export(run, draft / "model")


def train(folder: Path, *, scale: float = 1.0, compile: bool = False) -> Path:
    """Trains the model in `folder` and writes it there, as `dcam_fast.models.load` reads it; returns that path.

    Args:
        folder: checkpoints live here; a run that was stopped goes on from the last one.
        scale: share of the steps to run, 1/n of them (a smoke test takes 0.01).
        compile: compile the transformer blocks with `torch.compile`: a third faster, needs a C++ compiler.
    """
    if not 0 < scale <= 1:
        raise ValueError(f"train: scale must be above 0 and at most 1, got {scale}")
    check_writable(folder, "train")
    torch.manual_seed(0)
    config = TinyConfig(vocab_size=len(VOCABULARY), mask_token_id=MASK)
    model = TinyForMaskedDiffusion(config)
    if not (folder / "tower.pt").exists():
        tower = train_tower(config, scale)
        with replacing(folder, "train") as draft:
            torch.save(tower, draft / "tower.pt")
    model.vision.load_state_dict(torch.load(folder / "tower.pt"))
    if compile:
        for block in model.blocks:
            block.compile()
    for stage in STAGES:
        run = Run.start(model, stage)
        _finish(run, stage, folder, scale)
        model.load_state_dict(run.average)
    return folder / "model"


def export(run: Run, path: Path) -> None:
    """Writes a folder that `dcam_fast.models.load` reads: configuration, tokenizer, and averaged weights in
    bfloat16."""
    model = copy.deepcopy(run.model)
    model.load_state_dict(run.average)
    model.bfloat16().save_pretrained(path)
    build_tokenizer().save(str(path / TOKENIZER))
