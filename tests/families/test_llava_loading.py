"""Loading LaViDa and LLaDA-V, from checkpoints that are whole or damaged."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import checks
import llava_stubs
import loading
import pytest
import torch
import transformers
from llava_stubs import CLASSES, HERE, make_model, package
from llava_subjects import make_tokenizer
from safetensors.torch import load_file, save_file

from dcam_fast import models
from dcam_fast.models import checkpoint as checkpoint_module
from dcam_fast.models.adapter import AdapterError
from dcam_fast.models.llava.adapter import LlavaAdapter

RELEASES = LlavaAdapter.transformers
IMAGE = checks.picture(120, 200)
family = llava_stubs.each_family


def ask_for_a_tower(patch: pytest.MonkeyPatch, name: str = "owner/siglip-tower") -> None:
    """The model's constructor asks for a pretrained tower, as the authors' does."""
    parts = importlib.import_module("llava_parts")
    stub = parts.Tower

    class TowerConfig(transformers.PretrainedConfig):
        model_type = "stand_in_tower"

    class PretrainedTower(transformers.PreTrainedModel):
        config_class = TowerConfig
        width = 0

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.patches = stub(self.width).patches

        image_size, num_patches_per_side = stub.image_size, stub.num_patches_per_side
        image_processor = None
        forward = stub.forward

        def _init_weights(self, module: Any) -> None:
            """Torch's own."""

    def make(width: int) -> Any:
        PretrainedTower.width = width
        tower = PretrainedTower.from_pretrained(name)
        tower.config.patch_size = parts.PATCH
        return tower

    patch.setattr(parts, "Tower", make)


@pytest.fixture(scope="module")
def checkpoint(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make_model(family)
    folder = tmp_path_factory.mktemp("checkpoint") / f"tiny-{family}"
    model.save_pretrained(folder, max_shard_size="5MB" if family == "lladav" else "60KB")
    make_tokenizer(model.config.vocab_size).save_pretrained(folder)
    return folder


@pytest.fixture
def damaged(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / checkpoint.name))


def test_loading(family: str, checkpoint: Path) -> None:
    adapter: Any = models.load(str(checkpoint))
    assert adapter.attention == ("joint" if family == "lladav" else "prefix")
    assert adapter.name == f"tiny-{family}"
    assert adapter.encode(IMAGE, checks.PROMPT).embedded.isfinite().all()
    assert not any(parameter.requires_grad for parameter in adapter.model.parameters())
    other = "prefix" if family == "lladav" else "causal"
    with pytest.raises(AdapterError, match=f"attention must be .*joint, got '{other}'"):
        models.load(str(checkpoint), attention=other)


@pytest.mark.parametrize("stored", loading.DTYPES)
@pytest.mark.parametrize("dtype", [None, *loading.DTYPES])
def test_weights_are_of_one_dtype(damaged: Path, stored: torch.dtype, dtype: torch.dtype | None) -> None:
    """LaViDa's class says bfloat16 for some of them, whatever the caller requests."""
    loading.store(damaged, stored)
    adapter: Any = models.load(str(damaged), dtype=dtype)
    assert {parameter.dtype for parameter in adapter.model.parameters()} == {dtype or torch.float32}
    assert torch.get_default_dtype() == torch.float32


def test_a_tower_that_the_checkpoint_holds_needs_no_network(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_for_a_tower(monkeypatch)
    adapter: Any = models.load(str(damaged))
    assert adapter.encode(IMAGE, checks.PROMPT).embedded.isfinite().all()


def test_missing_tower(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_for_a_tower(monkeypatch)
    for file in shards(damaged):
        weights = {key: tensor for key, tensor in load_file(file).items() if "vision_tower" not in key}
        save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=r"load: 'owner/siglip-tower', named in .*config.json, must be a folder or"):
        models.load(str(damaged))


def test_a_towers_own_folder_has_what_the_checkpoint_lacks(
    damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_for_a_tower(monkeypatch, str(tmp_path / "tower"))
    own: dict[str, torch.Tensor] = {}
    for file in shards(damaged):
        weights = load_file(file)
        own |= {key.rpartition("vision_tower.")[2]: weights.pop(key) for key in list(weights) if "vision_tower" in key}
        save_file(weights, file, metadata={"format": "pt"})
    (tmp_path / "tower").mkdir()
    (tmp_path / "tower" / "config.json").write_text("{}")
    save_file(own, tmp_path / "tower" / "model.safetensors", metadata={"format": "pt"})
    adapter: Any = models.load(str(damaged))
    for key, tensor in adapter.model.get_vision_tower().state_dict().items():
        assert tensor.equal(own[key])


def shards(path: Path) -> list[Path]:
    files = sorted(path.glob("model-*.safetensors"))
    assert len(files) > 1
    return files


def test_missing_shard(damaged: Path) -> None:
    shards(damaged)[1].unlink()
    with pytest.raises(AdapterError, match=r"weights must be in .*00002.*got none there"):
        models.load(str(damaged))


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_truncated_shard(damaged: Path, keep: int) -> None:
    file = shards(damaged)[0]
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(AdapterError, match=f"{file.name} must be a whole safetensors file"):
        models.load(str(damaged))


@pytest.mark.parametrize(("shape", "message"), [((3, 5), "mismatched"), (None, "missing")])
def test_wrong_weights(damaged: Path, shape: tuple[int, int] | None, message: str) -> None:
    file, key = next((file, key) for file in shards(damaged) for key in load_file(file) if "k_proj" in key)
    weights = load_file(file)
    del weights[key]
    save_file(weights | ({} if shape is None else {key: torch.zeros(shape)}), file, metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=f"got {message} .*k_proj"):
        models.load(str(damaged))


def test_missing_tokenizer(damaged: Path) -> None:
    (damaged / "tokenizer.json").unlink()
    with pytest.raises(AdapterError, match=r"must have a tokenizer.json or tokenizer.model, got neither"):
        models.load(str(damaged))


def test_another_architecture(damaged: Path) -> None:
    file = damaged / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": ["Other"]}))
    with pytest.raises(AdapterError, match=r"architectures in .* must be .*LlavaLLaDAModelLM, got 'Other'"):
        models.load(str(damaged))


@pytest.mark.parametrize("release", ["4.49.0", "4.56.0", "4.57.6", "5.23.0"])
def test_releases_of_transformers(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    monkeypatch.setattr(LlavaAdapter, "transformers", RELEASES)
    monkeypatch.setattr(checkpoint_module.transformers, "__version__", release)
    with pytest.raises(AdapterError, match=rf"4\.56 removed.* got {release}; pip install .*>=4\.50,<4\.56"):
        models.load(str(checkpoint))


def test_the_package_of_the_other_family(family: str, checkpoint: Path) -> None:
    other = next(name for name in CLASSES if name != family)
    with package(other), pytest.raises(AdapterError, match=r"`llava` must be that of https://.*only one of them"):
        models.load(str(checkpoint))


def test_no_package(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "llava"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not path.startswith(str(HERE))])
    with pytest.raises(AdapterError, match=r"`llava` must be importable, got ModuleNotFound.*clone https://"):
        models.load(str(checkpoint))


def test_an_import_error_that_the_package_hides(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authors' package prints why a model's module is not there, and then misses another name."""
    for name in [name for name in sys.modules if name.split(".")[0] == "llava"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "llava" / "model").mkdir(parents=True)
    (tmp_path / "llava" / "__init__.py").write_text("from .model import LlavaLlamaForCausalLM")
    message = "Failed to import llava_llada from llava.language_model.llava_llada. Error: No module named 'einops'"
    (tmp_path / "llava" / "model" / "__init__.py").write_text(f"print({message!r})")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    with pytest.raises(
        AdapterError, match=r"importable, got No module named 'einops'; ImportError.*pip install .*einops"
    ):
        models.load(str(checkpoint))
