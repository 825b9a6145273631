"""DiffusionGemma from a folder, and the errors for damaged files."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dcam_fast import models
from dcam_fast.models import AdapterError
from dcam_fast.models.diffusion_gemma.adapter import DiffusionGemmaAdapter
from dcam_fast.models.generation import Generation

gemma = pytest.importorskip("gemma", reason="this transformers is older than DiffusionGemma")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound")
    gemma.save(path, max_shard_size="100KB")
    return path


@pytest.fixture
def damaged(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))


def shards(path: Path) -> list[Path]:
    return sorted(path.glob("*.safetensors"))


def test_loads_from_a_folder(checkpoint: Path, adapter: DiffusionGemmaAdapter) -> None:
    assert len(shards(checkpoint)) > 1
    loaded = models.load(str(checkpoint))
    picture = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    inputs = adapter.encode(picture, "what is this")
    trajectory = loaded.generate(loaded.encode(picture, "what is this"), Generation(3))
    assert trajectory.tokens.equal(adapter.generate(inputs, Generation(3)).tokens)
    assert not any(parameter.requires_grad for parameter in loaded.layer_module(0).parameters())
    with pytest.raises(AdapterError, match="attention must be left out for diffusion_gemma, which has no options"):
        models.load(str(checkpoint), attention="joint")


def test_the_callers_modes(checkpoint: Path, check_modes: Callable[..., None]) -> None:
    check_modes(lambda: models.load(checkpoint), "what is this")


@pytest.mark.parametrize("pair", [True, False])
def test_a_model_in_memory(checkpoint: Path, check_left_alone: Callable[..., None], pair: bool) -> None:
    tokenizer, processor = gemma.make_tokenizer(), gemma.make_processor()
    both = (tokenizer, processor) if pair else SimpleNamespace(tokenizer=tokenizer, image_processor=processor)
    check_left_alone(models.load(checkpoint), gemma.make_model(), both, "what is this")


@pytest.mark.parametrize("processor", [None, gemma.make_tokenizer(), (1, 2), (gemma.make_tokenizer(),)])
def test_what_is_no_processor(adapter: DiffusionGemmaAdapter, processor: object) -> None:
    with pytest.raises(AdapterError, match=r"processor must be \(tokenizer, image processor\) or an AutoProcessor"):
        models.adapter_of(adapter.model, processor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_of_the_requested_dtype(checkpoint: Path, dtype: torch.dtype) -> None:
    adapter: Any = models.load(str(checkpoint), dtype=dtype)
    assert {parameter.dtype for parameter in adapter.model.parameters()} == {dtype}
    assert adapter.decode(torch.tensor([999_999])) == "<999999>"


def test_an_answer_ends_where_transformers_ends_it(damaged: Path) -> None:
    """The generation config alone has the end tokens."""
    file = damaged / "generation_config.json"
    settings = json.loads(file.read_text())
    for ends, expected in ((None, []), (1, [1]), ([1, 3], [1, 3])):
        file.write_text(json.dumps(settings | {"eos_token_id": ends}))
        adapter: Any = models.load(str(damaged))
        assert adapter.model.generation_config.eos_token_id == ends
        assert adapter._end_tokens() == expected


def test_missing_shard(damaged: Path) -> None:
    shards(damaged)[1].unlink()
    with pytest.raises(AdapterError, match=r"weights must be in .*00002.*got none there"):
        models.load(str(damaged))


@pytest.mark.parametrize("keep", [0, 5, 0.5, -1])
def test_truncated_shard(damaged: Path, keep: float) -> None:
    file = shards(damaged)[0]
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(AdapterError, match=f"{file.name} must be a whole safetensors file"):
        models.load(str(damaged))


def change(path: Path, key: str, to: Tensor | None) -> None:
    for file in shards(path):
        weights = load_file(file)
        if key in weights:
            del weights[key]
            save_file(weights | ({} if to is None else {key: to}), file, metadata={"format": "pt"})
            return
    raise AssertionError(f"no {key}")


def some_key(path: Path) -> str:
    index = json.loads((path / "model.safetensors.index.json").read_text())["weight_map"]
    return next(key for key in sorted(index) if key.endswith("q_proj.weight") and "vision" not in key)


def test_wrong_shape(damaged: Path) -> None:
    key = some_key(damaged)
    change(damaged, key, torch.zeros(3, 5))
    with pytest.raises(AdapterError, match=r"must be of the configuration's shape, got mismatched .*q_proj"):
        models.load(str(damaged))


def test_missing_weight(damaged: Path) -> None:
    change(damaged, some_key(damaged), None)
    with pytest.raises(AdapterError, match=r"must be in the checkpoint, got missing .*q_proj"):
        models.load(str(damaged))


def test_pickled_weights_are_refused(damaged: Path) -> None:
    for file in shards(damaged):
        file.unlink()
    (damaged / "model.safetensors.index.json").unlink()
    torch.save({}, damaged / "pytorch_model.bin")
    with pytest.raises(AdapterError, match="safetensors file, got none there"):
        models.load(str(damaged))


def test_missing_tokenizer(damaged: Path) -> None:
    for file in damaged.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(AdapterError, match=r"must have a tokenizer\.json or"):
        models.load(str(damaged))


def test_older_transformers_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers.models.gemma4.image_processing_pil_gemma4", None)
    monkeypatch.setattr("dcam_fast.models.diffusion_gemma.adapter.transformers.__version__", "4.57.6")
    with pytest.raises(AdapterError, match=r"transformers must be 5\.11\.0 or newer, got 4\.57\.6"):
        models.load(str(checkpoint))
