"""What LaViDa and LLaDA-V share when they are held against the authors' code."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checks
from llava_subjects import make_tokenizer
from loading import check_loading

from dcam_fast.models.checkpoint import check_transformers
from dcam_fast.models.generation import Generation
from dcam_fast.models.llava.adapter import LlavaAdapter
from dcam_fast.testing import check_adapter

IMAGE = checks.picture(60, 320)


def import_package(family: str, folder: Path) -> None:
    """Makes the package `llava` in `folder` the one that is imported."""
    check_transformers(family, LlavaAdapter.transformers)
    if not (folder / "llava").is_dir():
        raise SystemExit(f"check_real: --repo must be a folder that holds the package llava, got {folder}")
    sys.path.insert(0, str(folder))
    # Imported by the authors' code, but not needed here.
    _empty("deepspeed", checkpointing=types.SimpleNamespace(checkpoint=lambda run, *args: run(*args)))
    commit = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    print(f"{family} at {commit.strip()}")


def make_tower(folder: str) -> str:
    """The path of a SigLIP of two layers with 27 x 27 patches."""
    from llava.model.multimodal_encoder.siglip_encoder import SigLipVisionConfig, SigLipVisionModel

    config = SigLipVisionConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    SigLipVisionModel(config).save_pretrained(f"{folder}/siglip-tiny")
    return f"{folder}/siglip-tiny"


def compare(
    make: Callable[[Any, str], checks.Subject], attentions: tuple[str, ...], sizes: list[Any], schedules: Any
) -> None:
    """Says what holds of the subject for each attention topology, and raises what does not."""
    for attention in attentions:
        with tempfile.TemporaryDirectory() as folder:
            subject = make(attention, folder)
        worst = checks.check_gradients(subject, IMAGE, (0, 3, 7))
        print(f"{attention}: gradients of the split run within {worst:.1e} of the full graph")
        for steps, block_length in schedules:
            worst = checks.check_generation(subject, IMAGE, Generation(steps, block_length))
            settings = f"{attention}, {steps} steps, blocks of {block_length}"
            print(f"{settings}: same tokens and steps, logits within {worst:.1e}")
        generation = Generation(*schedules[0], temperature=0.5, seed=1)
        worst = checks.check_generation(subject, IMAGE, generation)
        print(f"{attention}, {generation}: same tokens and steps, logits within {worst:.1e}")
        check_adapter(subject.adapter, checks.picture(300, 200), checks.PROMPT)
        print(f"{attention}: check_adapter finds nothing")
    for h, w in sizes:
        shapes = [tuple(view.cells.shape) for view in subject.adapter.encode(checks.picture(h, w), "what").views]
        print(f"{w} x {h}: cells {shapes}, {checks.check_changed_pixels(subject, h, w)} changed cells located")


def compare_loading(make: Callable[[str], Any], vocabulary: int, steps: int) -> None:
    """Says what holds of a checkpoint as it comes from the Hub, with its vision tower and without its own folder of
    one."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "checkpoint"
        make(parent).save_pretrained(folder, max_shard_size="5MB")
        make_tokenizer(vocabulary).save_pretrained(folder)
        print(f"{check_loading(folder, steps)} pairs of stored and requested dtype load and explain")


def _empty(name: str, **attributes: Any) -> None:
    if importlib.util.find_spec(name) is None:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(attributes)
        sys.modules[name] = module
