"""Dimple's and Dream-VL's adapters against the authors' code: a folder as it comes from the Hub, code, weights,
tokenizer and all, is made from a checkout and tiny random weights, and loaded."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import checks
import transformers
from dream import LENGTH, DreamSubject
from dream_checkpoint import make_checkpoint

from dcam_fast.models import load
from dcam_fast.models.adapter import AdapterError
from dcam_fast.testing import check_adapter

CODE = {"dimple": "lmms-eval/lmms_eval/models/dimple_model", "dream-vl": "vl/train/dreamvl"}  # in a checkout
SIZES = [(480, 640), (900, 300), (800, 800), (300, 1200), (333, 517), (28, 28), (31, 900), (1000, 47)]


def check(family: str, repo: Path) -> None:
    """Says what holds, and raises what does not."""
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / f"tiny-{family}"
        folder.mkdir()
        make_checkpoint(family, folder, repo / CODE[family])
        try:
            load(str(folder))
        except AdapterError as error:
            print(f"without trust: {error}")
        loaded = load(str(folder), trust_remote_code=True)
        _compare(loaded)
        subject = DreamSubject(loaded)
        for h, w in SIZES:
            shape = tuple(loaded.encode(checks.picture(h, w), "what").views[0].cells.shape)
            print(f"{w} x {h}: cells {shape}, {checks.check_painting(subject, h, w)} painted cells found")


def _compare(loaded: Any) -> None:
    make, image = type(loaded), checks.picture(200, 300)
    confident: list[dict[str, Any]] = [{}]
    if loaded.family == "dimple":  # so unsure are random weights that both kinds of step want another threshold
        confident = [{"confident": 0.95}, {"confident": 0.12}]
    for attention in loaded.topologies:
        for options in confident:
            adapter = make(
                loaded.model, loaded.processor, name="tiny", attention=attention, answer_length=LENGTH, **options
            )
            subject, said = DreamSubject(adapter), f"{attention} {options or ''}"
            for steps in (1, 3, 8, 20):
                worst = checks.check_generation(subject, image, steps, LENGTH)
                taken = int(adapter.generate(adapter.encode(image, checks.PROMPT), steps).steps.max()) + 1
                print(f"{said}, {steps} steps: the same tokens in {taken} steps, logits within {worst:.1e}")
            worst = checks.check_gradients(subject, image, (0, 3, 7))
            print(f"{said}: gradients of the split run within {worst:.1e} of the full graph")
            check_adapter(adapter, checks.picture(300, 200), checks.PROMPT)
            print(f"{said}: check_adapter finds nothing")
