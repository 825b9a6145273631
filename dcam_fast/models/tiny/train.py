"""Trains the embedded model from scratch: `dcam-fast train-tiny`.

There are five stages, counted in steps and seeded. A run on the same machine and torch gives the same weights.

1. The vision tower alone learns which words the caption of a scene has, without masks or positions. It takes the place
   of the pretrained encoder of a large model. Without it the language model learns only word priors.
2. The whole model learns to denoise captions and answers (the objective of LLaDA, arXiv 2502.09992), on a curriculum
   of growing canvases.
3. It learns the hard scenes, from the averaged weights and with new optimizers.
4. The same with more questions, because left/right relations are the hardest to learn.
5. Mostly questions about left and right, first in scenes of two objects, then in larger ones.

A stage is saved every `SAVE_EVERY` steps and continues from there when started again with the same folder.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from dcam_fast import scenes
from dcam_fast.folders import check_writable, replacing
from dcam_fast.models.tiny.curriculum import STAGES, TOWER, TrainingPhase, TrainingStage
from dcam_fast.models.tiny.layers import CELL, TinyConfig, VisionTower
from dcam_fast.models.tiny.modeling import TinyForMaskedDiffusion
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
CONTENT = VOCABULARY.index(scenes.SHAPES[0])  # the first of the words that describe the image
TOWER_RATE, MUON_RATE, ADAM_RATE = 3e-3, 2e-2, 3e-3
WARMUP, DECAY, FLOOR = 50, 0.40, 0.02  # steps; share of the run with linear decay; final share of the peak


def learning_rate(step: int, total: int) -> float:
    """Learning rate at `step` as a share of the peak: linear warm-up, constant, linear decay."""
    decay = (total - step) / (DECAY * total)
    return min(1.0, (step + 1) / WARMUP, max(FLOOR, decay))


def _phase_of_step(phases: tuple[TrainingPhase, ...], scale: float) -> list[TrainingPhase]:
    """The phase of each step, for a share `scale` of the steps."""
    return [phase for phase in phases for _ in range(phase.steps)][:: round(1 / scale)]


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[metrics]}"))


def _offset(rng: np.random.Generator, canvas: tuple[int, int], grid: int) -> tuple[int, int]:
    """A random position of a canvas in the largest grid, so that all row and column embeddings are trained."""
    row, column = (int(rng.integers(grid - side // CELL + 1)) for side in canvas)
    return row, column


def draw_dialogue(rng: np.random.Generator, scene: scenes.Scene, phase: TrainingPhase) -> scenes.Dialogue:
    """The caption of a scene or, with the probability of the phase, an unambiguous question about it."""
    if rng.random() < phase.questions:
        kind = str(rng.choice(list(phase.kinds), p=list(phase.kinds.values())))
        return scenes.question(rng, scene, kind) or scenes.caption(scene)
    return scenes.caption(scene)


def _draw_scenes(rng: np.random.Generator, phase: TrainingPhase) -> tuple[list[scenes.Scene], Tensor, tuple[int, int]]:
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
    """The loss of the vision tower: the words of the caption, from the log-mean-exp over cells, and the background."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        shapes, colors, sizes = scenes.SHAPES, tuple(scenes.COLORS), scenes.SIZES
        self.labels: list[tuple[str, ...]] = [(first, shape) for first in (*colors, *sizes) for shape in shapes]
        self.labels += [(word,) for word in (*shapes, *colors)]
        self.words = nn.Linear(channels, len(self.labels))
        self.textures = nn.Linear(channels, len(TEXTURES))
        nn.init.constant_(self.words.bias, -2.0)

    def forward(self, features: Tensor, drawn: list[scenes.Scene]) -> tuple[Tensor, Tensor]:
        """The loss, and the share of scenes whose most probable (color, shape) pair is present."""
        present = [
            {
                label
                for item in scene.objects
                for label in ((item.color, item.shape), (item.size, item.shape), (item.shape,), (item.color,))
            }
            for scene in drawn
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
    """Masks answers at stratified rates.

    Args:
        answers: int64 `[B, L]`.
        maskings: number K of masked versions of each answer.
        generator: the source of randomness.

    Returns:
        Canvases int64 `[B, K, L]`, and the loss weights of LLaDA, float32 `[B, K, L]`: 1 / rate at a masked position,
        0 elsewhere.
    """
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
    """The first stage. Returns the weights of the vision tower."""
    rng = np.random.default_rng(11)
    torch.manual_seed(0)
    tower, objective = VisionTower(config), TowerObjective(config.vision_sizes[1])
    parameters = [*tower.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=TOWER_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    phases = _phase_of_step(TOWER, scale)
    with _progress() as progress:
        task = progress.add_task("vision tower", total=len(phases), metrics="")
        for step, phase in enumerate(phases):
            optimizer.param_groups[0]["lr"] = TOWER_RATE * learning_rate(step, len(phases))
            drawn, pixels, canvas = _draw_scenes(rng, phase)
            with _autocast():
                features = tower(pixels, _offset(rng, canvas, config.grid))
                loss, accuracy = objective(features, drawn)
            _clip_and_step(parameters, [optimizer], loss)
            progress.update(task, advance=1, metrics=f"loss {loss.item():.3f}, pair {accuracy.item():.2f}")
    return tower.state_dict()


@dataclass
class TrainingRun:
    """The state of a stage after some steps.

    Attributes:
        model: the model.
        average: exponential moving average of its weights.
        optimizers: for the matrices of the transformer, the other weights, and the vision tower.
        rng: the source of scenes.
        generator: the source of masks.
        step: number of finished steps.
    """

    model: TinyForMaskedDiffusion
    average: dict[str, Tensor]
    optimizers: list[torch.optim.Optimizer]
    rng: np.random.Generator
    generator: torch.Generator
    step: int = 0

    @staticmethod
    def start(model: TinyForMaskedDiffusion, stage: TrainingStage) -> TrainingRun:
        """A run from the current weights of a model."""
        matrices: list[nn.Parameter] = []
        tower: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            if name.startswith("vision"):
                tower.append(parameter)
            elif parameter.ndim == 2 and name.startswith("blocks"):
                matrices.append(parameter)
            else:
                others.append(parameter)
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=stage.rate * MUON_RATE, momentum=0.95, weight_decay=0.01),
            torch.optim.AdamW(others, lr=stage.rate * ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01),
            torch.optim.AdamW(tower, lr=stage.rate * 0.3 * ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01),
        ]
        for optimizer in optimizers:
            optimizer.param_groups[0]["peak"] = optimizer.param_groups[0]["lr"]
        average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        seed = stage.seed
        return TrainingRun(model, average, optimizers, np.random.default_rng(seed), torch.Generator().manual_seed(seed))

    def state(self) -> dict[str, object]:
        """What `load` needs to continue the run."""
        return {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "rng": self.rng.bit_generator.state,
            "generator": self.generator.get_state(),
            "step": self.step,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continues from a saved `state`."""
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.rng.bit_generator.state = state["rng"]
        self.generator.set_state(state["generator"])
        self.step = state["step"]

    def advance(self, phase: TrainingPhase, total: int) -> str:
        """One step. Returns the metrics for the progress bar."""
        model = self.model
        for optimizer in self.optimizers:
            group = optimizer.param_groups[0]
            group["lr"] = group["peak"] * learning_rate(self.step, total)
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
        accuracy = (logits.argmax(-1) == target)[content].float().mean().item()
        return f"loss {loss.item():.3f}, content {accuracy:.2f}, canvas {canvas[0]}x{canvas[1]}"


def _encode_prompt(prompt: str, length: int) -> list[int]:
    return encode_words(prompt.split(), length, PAD)


def _finish(run: TrainingRun, stage: TrainingStage, folder: Path, scale: float) -> None:
    """Advances a run to its end. It is saved on the way, atomically."""
    phases = _phase_of_step(stage.phases, scale)
    checkpoint = folder / f"{stage.name}.pt"
    if checkpoint.exists():
        run.load(torch.load(checkpoint, weights_only=False))
    with _progress() as progress:
        task = progress.add_task(stage.name, total=len(phases), completed=run.step, metrics="")
        while run.step < len(phases):
            metrics = run.advance(phases[run.step], len(phases))
            progress.update(task, advance=1, metrics=metrics)
            if run.step % SAVE_EVERY == 0 or run.step == len(phases):
                with replacing(folder, "train") as draft:
                    torch.save(run.state(), draft / checkpoint.name)
                    export(run, draft / "model")


def train(folder: Path, *, scale: float = 1.0, compile: bool = False) -> Path:
    """Trains the model.

    Args:
        folder: of the checkpoints. A stopped run continues from the last one.
        scale: share of the steps, 1/n of them; 0.01 is a smoke test.
        compile: compile the transformer layers with `torch.compile`: a third faster, needs a C++ compiler.

    Returns:
        The folder of the model, as `dcam_fast.models.load` reads it.

    Raises:
        ValueError: unless `scale` is above 0 and at most 1.
        OSError: if the folder cannot be written to.
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
        for layer in model.layers():
            layer.compile()
    for stage in STAGES:
        run = TrainingRun.start(model, stage)
        _finish(run, stage, folder, scale)
        model.load_state_dict(run.average)
    return folder / "model"


def export(run: TrainingRun, path: Path) -> None:
    """Writes configuration, tokenizer and averaged weights in bfloat16, as `dcam_fast.models.load` reads them."""
    model = copy.deepcopy(run.model)
    model.load_state_dict(run.average)
    model.bfloat16().save_pretrained(path)
    build_tokenizer().save(str(path / TOKENIZER))
