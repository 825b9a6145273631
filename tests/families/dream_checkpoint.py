"""Checkpoints of Dimple and of Dream-VL, as they come from the Hub but tiny: code, configuration, random weights,
tokenizer and processor in one folder. The code is the authors' or that of the stubs."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from dream import MASK, SPECIAL, TEMPLATE, shake
from tokenizers.pre_tokenizers import ByteLevel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

BYTES = sorted(ByteLevel.alphabet())
FIRST = len(BYTES)  # the id of the first special token
SAMPLING = {"top_k": 20, "top_p": 0.95}  # not the defaults, so that a wrong source is found


@dataclass(frozen=True)
class Form:
    """What a family's checkpoint is called and made of.

    Attributes:
        files: what configuration, model, tokenizer, processor and image processor are called, as file.Class.
        vision: of the configuration.
        options: of the configuration, the family's own.
    """

    files: dict[str, str]
    vision: dict[str, Any]
    options: dict[str, Any]


FORMS = {
    "dimple": Form(
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
    "dream-vl": Form(
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


def make_checkpoint(family: str, folder: Path, *code: Path) -> None:
    """A checkpoint of about 80,000 random weights in `folder`, with the Python files of the folders `code`."""
    form = FORMS[family]
    for file in (file for directory in code for file in directory.glob("*.py")):
        shutil.copy(file, folder)
    ids = {name: FIRST + index for index, name in enumerate(SPECIAL)}
    config_class = get_class_from_dynamic_module(form.files["AutoConfig"], folder)
    config = config_class(
        vocab_size=FIRST + len(SPECIAL),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        mrope_section=[2, 1, 1],
        rope_theta=10000.0,
        vision_config=form.vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        mask_token_id=ids[MASK],
        pad_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>"],
        **form.options,
    )
    model = get_class_from_dynamic_module(form.files["AutoModel"], folder)(config)
    shake(model)
    with torch.no_grad():  # random attention would make all cells alike
        for block in model.visual.blocks:
            block.attn.proj.weight *= 0.1
    model.save_pretrained(folder, max_shard_size="100KB")
    written = json.loads((folder / "config.json").read_text())
    _write(folder / "config.json", {**written, **SAMPLING, "auto_map": _map(form, "AutoConfig", "AutoModel")})
    _write(folder / "vocab.json", {byte: index for index, byte in enumerate(BYTES)})
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = {
        "tokenizer_class": form.files["AutoTokenizer"].split(".")[1],
        "auto_map": {"AutoTokenizer": [form.files["AutoTokenizer"], None]},
        "added_tokens_decoder": {str(ids[name]): {"content": name, "special": True} for name in SPECIAL},
        "eos_token": "<|im_end|>" if family == "dimple" else "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "mask_token": MASK,
    }
    _write(folder / "tokenizer_config.json", tokenizer)
    _write(folder / "chat_template.json", {"chat_template": TEMPLATE[family]})
    image = {
        "image_processor_type": form.files["AutoImageProcessor"].split(".")[1],
        "processor_class": form.files["AutoProcessor"].split(".")[1],
        "max_pixels": 256 * 28 * 28,
        "auto_map": _map(form, "AutoProcessor", "AutoImageProcessor"),
    }
    _write(folder / "preprocessor_config.json", image)


def _map(form: Form, *names: str) -> dict[str, str]:
    return {name: form.files[name] for name in names}


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content))
