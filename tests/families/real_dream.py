"""Dimple's and Dream-VL's adapters against the authors' code: a folder as it comes from the Hub, code, weights,
tokenizer and all, is made from a checkout and tiny random weights, and loaded."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checks
import transformers
from dream import LENGTH, TEMPLATE, DreamSubject
from dream_checkpoint import make_checkpoint
from loading import check_loading

from dcam_fast.models import load
from dcam_fast.models.adapter import AdapterError
from dcam_fast.models.generation import Generation
from dcam_fast.testing import check_adapter

CODE = {"dimple": "lmms-eval/lmms_eval/models/dimple_model", "dream-vl": "vl/train/dreamvl"}  # in a checkout
SIZES = [(480, 640), (900, 300), (800, 800), (300, 1200), (333, 517), (28, 28), (31, 900), (1000, 47)]
IMAGE = checks.picture(200, 300)


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
        else:
            raise AssertionError("the checkpoint's code ran without trust")
        loaded: Any = load(str(folder), trust_remote_code=True)
        length = loaded.answer_length
        worst = checks.check_generation(DreamSubject(loaded), IMAGE, Generation(length, length))
        print(f"{length} tokens in at most {length} steps: the same tokens and steps, logits within {worst:.1e}")
        for name, subject in _variants(loaded):
            _compare(name, subject)
        for h, w in SIZES:
            shape = tuple(loaded.encode(checks.picture(h, w), "what").views[0].cells.shape)
            found = checks.check_changed_pixels(DreamSubject(loaded), h, w)
            print(f"{w} x {h}: cells {shape}, {found} changed cells located")
        print(
            f"{check_loading(folder, 8, trust_remote_code=True)} pairs of stored and requested dtype load and explain"
        )


def _variants(loaded: Any) -> Iterator[tuple[str, DreamSubject]]:
    """The ways in which the model can answer."""

    def made(**options: Any) -> DreamSubject:
        make = type(loaded)
        return DreamSubject(make(loaded.model, loaded.processor, name="tiny", answer_length=LENGTH, **options))

    for attention in loaded.topologies:
        yield attention, made(attention=attention)
        if loaded.family == "dimple":  # the authors' threshold is beyond random weights
            threshold = made(attention=attention).threshold(IMAGE)
            yield f"{attention}, threshold {threshold:.3f}", made(attention=attention, threshold=threshold)
    if loaded.family == "dream-vl":
        own, loaded.processor.chat_template = loaded.processor.chat_template, TEMPLATE["dimple"]
        yield "joint, a marked image", made()
        loaded.processor.chat_template = own


def _compare(name: str, subject: DreamSubject) -> None:
    adapter = subject.adapter
    for steps in (1, 3, 8, 20):
        worst = checks.check_generation(subject, IMAGE, Generation(steps, LENGTH))
        taken = int(adapter.generate(adapter.encode(IMAGE, checks.PROMPT), Generation(steps)).steps.max()) + 1
        print(f"{name}, {steps} steps: the same tokens in {taken} steps, logits within {worst:.1e}")
    for seed in (0, 1):
        generation = Generation(8, LENGTH, temperature=0.5, seed=seed)
        worst = checks.check_generation(subject, IMAGE, generation)
        print(f"{name}, {generation}: the same tokens and steps, logits within {worst:.1e}")
    worst = checks.check_gradients(subject, IMAGE, tuple(range(LENGTH)))
    print(f"{name}: gradients of the split run within {worst:.1e} of the full graph")
    check_adapter(adapter, checks.picture(300, 200), checks.PROMPT)
    print(f"{name}: check_adapter finds nothing")
