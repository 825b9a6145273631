"""Dimple's and Dream-VL's adapters against the authors' code: a folder as it comes from the Hub, code, weights,
tokenizer and all, is made from a checkout and tiny random weights, and loaded."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checks
import transformers
from dream import LENGTH, MASK, SPECIAL, TEMPLATE, DreamSubject, shake
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

from dcam_fast.models import load
from dcam_fast.models.adapter import AdapterError
from dcam_fast.testing import check_adapter

BYTES = tuple(bytes_to_unicode().values())
FIRST = len(BYTES)  # the id of the first special token
SIZES = [(480, 640), (900, 300), (800, 800), (300, 1200), (333, 517), (28, 28), (31, 900), (1000, 47)]


@dataclass(frozen=True)
class Real:
    """What a family's checkpoint is called and made of.

    Attributes:
        code: where the code lies in the checkout.
        files: what configuration, model, tokenizer, processor and image processor are called, as file.Class.
        vision: of the configuration.
        options: of the configuration, the family's own.
    """

    code: str
    files: dict[str, str]
    vision: dict[str, Any]
    options: dict[str, Any]


REAL = {
    "dimple": Real(
        code="lmms-eval/lmms_eval/models/dimple_model",
        files={
            "AutoConfig": "configuration_dimple.DimpleConfig",
            "AutoModel": "modeling_dimple.DimpleModel",
            "AutoTokenizer": "tokenization_dimple.DimpleTokenizer",
            "AutoProcessor": "processing_dimple.DimpleProcessor",
            "AutoImageProcessor": "image_processing_dimple.DimpleImageProcessor",
        },
        vision={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        },
        options={},
    ),
    "dream-vl": Real(
        code="vl/train/dreamvl",
        files={
            "AutoConfig": "configuration_dreamvl.DreamVLConfig",
            "AutoModel": "modeling_dreamvl.DreamVLModel",
            "AutoTokenizer": "tokenization_dream.DreamTokenizer",
            "AutoProcessor": "processing_dreamvl.DreamVLProcessor",
            "AutoImageProcessor": "image_processing_dreamvl.DreamVLImageProcessor",
        },
        vision={"depth": 2, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2, "num_heads": 2},
        options={"projector_hidden_act": "gelu"},
    ),
}


def make_checkpoint(family: str, repo: Path, folder: Path) -> None:
    """A checkpoint of a few thousand weights in ``folder``, with the code of the checkout ``repo``."""
    real = REAL[family]
    for file in (repo / real.code).glob("*.py"):
        shutil.copy(file, folder)
    ids = {name: FIRST + index for index, name in enumerate(SPECIAL)}
    config_class = get_class_from_dynamic_module(real.files["AutoConfig"], folder)
    config = config_class(
        vocab_size=FIRST + len(SPECIAL),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        mrope_section=[2, 1, 1],
        rope_theta=10000.0,
        vision_config=real.vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        mask_token_id=ids[MASK],
        pad_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>"],
        **real.options,
    )
    model = get_class_from_dynamic_module(real.files["AutoModel"], folder)(config)
    shake(model)
    model.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    _write(folder / "config.json", {**written, "auto_map": _map(real, "AutoConfig", "AutoModel")})
    _write(folder / "vocab.json", {byte: index for index, byte in enumerate(BYTES)})
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = {
        "tokenizer_class": real.files["AutoTokenizer"].split(".")[1],
        "auto_map": {"AutoTokenizer": [real.files["AutoTokenizer"], None]},
        "added_tokens_decoder": {str(ids[name]): {"content": name, "special": True} for name in SPECIAL},
        "eos_token": "<|im_end|>" if family == "dimple" else "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "mask_token": MASK,
    }
    _write(folder / "tokenizer_config.json", tokenizer)
    _write(folder / "chat_template.json", {"chat_template": TEMPLATE[family]})
    image = {
        "image_processor_type": real.files["AutoImageProcessor"].split(".")[1],
        "processor_class": real.files["AutoProcessor"].split(".")[1],
        "max_pixels": 256 * 28 * 28,
        "auto_map": _map(real, "AutoProcessor", "AutoImageProcessor"),
    }
    _write(folder / "preprocessor_config.json", image)


def _map(real: Real, *names: str) -> dict[str, str]:
    return {name: real.files[name] for name in names}


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content))


def check(family: str, repo: Path) -> None:
    """Says what holds, and raises what does not."""
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / f"tiny-{family}"
        folder.mkdir()
        make_checkpoint(family, repo, folder)
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
