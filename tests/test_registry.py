"""Models by folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from dcam_fast import Explainer, models
from dcam_fast.cli.app import app
from dcam_fast.models import AdapterError
from dcam_fast.models.generation import Generation
from dcam_fast.models.tiny import WEIGHTS
from dcam_fast.models.tiny.modeling import TinyForMaskedDiffusion
from dcam_fast.models.tiny.processing import TOKENIZER, build_tokenizer

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


def folder(path: Path, config: object) -> str:
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


def test_unknown_family_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"model_type in .* must be one of .*diffusion_gemma.*, got 'llava_next'"):
        models.load(folder(tmp_path, {"model_type": "llava_next"}))
    with pytest.raises(AdapterError, match=r"must be one of .*, got None"):
        models.load(folder(tmp_path, {}))


def test_unreadable_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(AdapterError, match="must be JSON that can be read"):
        models.load(str(tmp_path))
    with pytest.raises(AdapterError, match="must hold an object, got list"):
        models.load(folder(tmp_path, []))
    with pytest.raises(AdapterError, match=r"a folder with a config.json"):
        models.load(str(tmp_path / "nothing"))


def test_one_line_registers_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Path, dict[str, Any]]] = []

    def load_adapter(path: Path, *, attention: str | None = None, **options: Any) -> None:
        calls.append((path, {"attention": attention, **options}))

    family = SimpleNamespace(load_adapter=load_adapter)
    monkeypatch.setitem(models.FAMILIES, "mine", "my_family")
    monkeypatch.setitem(__import__("sys").modules, "my_family", family)
    path = folder(tmp_path, {"model_type": "mine"})
    models.load(path)
    Explainer.from_pretrained(path, attention="joint", trust_remote_code=True)
    shared = {"name": tmp_path.name, "device": "cpu", "dtype": None}
    assert calls == [
        (tmp_path, {**shared, "attention": None, "trust_remote_code": False}),
        (tmp_path, {**shared, "attention": "joint", "trust_remote_code": True}),
    ]
    with pytest.raises(AdapterError, match=r"view must be left out for mine, whose options are attention, got 'base'"):
        models.load(path, view="base")


def test_command_line_hands_on_the_models_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def from_pretrained(model: str, **options: Any) -> None:
        calls.append({"model": model, **{name: value for name, value in options.items() if value is not None}})
        raise AdapterError("load: nothing there")

    monkeypatch.setattr(Explainer, "from_pretrained", from_pretrained)
    chosen = {"attention": "joint", "answer_length": 8, "view": "base", "vision_tower": "owner/tower"}
    arguments = [text for name, value in chosen.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    for more in ([], ["--trust-remote-code", "--dtype", "bfloat16", *arguments]):
        assert CliRunner().invoke(app, ["explain", "a.png", "--model", str(tmp_path), *more]).exit_code == 1
    shared = {"model": str(tmp_path), "device": "cpu"}
    assert calls == [
        {**shared, "trust_remote_code": False},
        {**shared, "trust_remote_code": True, "dtype": "bfloat16", **chosen},
    ]


# ------------------------------------------------------------------------------------------ the embedded model's family


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder as `train-tiny` writes it, with the embedded weights."""
    path = tmp_path / "trained"
    TinyForMaskedDiffusion.from_pretrained(WEIGHTS).save_pretrained(path)
    build_tokenizer().save(str(path / TOKENIZER))
    return path


def test_a_trained_folder_is_a_model(trained: Path) -> None:
    wanted = Explainer.from_pretrained("tiny").explain(IMAGE, generation=Generation(steps=4))
    for model in (trained, str(trained)):
        explanation = Explainer.from_pretrained(model).explain(IMAGE, generation=Generation(steps=4))
        assert explanation.answer == wanted.answer
        assert torch.equal(explanation.maps, wanted.maps)
        assert explanation.provenance["model"] == "trained"
    assert models.load(trained, attention="joint", dtype="bfloat16").attention == "joint"  # type: ignore[attr-defined]


def test_loading_leaves_the_random_numbers_alone(trained: Path) -> None:
    before = torch.random.get_rng_state()
    models.load(trained)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.safetensors", lambda content: content[:-9], "must be a whole safetensors file, got"),
        ("model.safetensors", lambda content: b"PK", "must be a whole safetensors file, got"),
        ("model.safetensors", None, "a safetensors file, got none there"),
        ("tokenizer.json", lambda content: content[:99], "must be a tokenizer that can be read, got"),
        ("tokenizer.json", lambda content: b"{}", "must be a tokenizer that can be read, got"),
        ("tokenizer.json", None, "tokenizer must be in .*, got none there"),
        ("config.json", lambda content: content[:50], "must be JSON that can be read, got"),
        ("config.json", lambda content: b"\xff\xfe", "must be JSON that can be read, got"),
        ("config.json", lambda content: content.replace(b"grid", b"grit"), "must hold the model's sizes, got"),
        ("config.json", lambda content: content.replace(b"128", b"-1"), "must hold the model's sizes, got"),
        (
            "config.json",
            lambda content: content.replace(b"352", b"353"),
            "must hold the weights .* describes, got",
        ),
        ("config.json", lambda content: content.replace(b'"dcam_tiny"', b"[1]"), "must be one of .*, got"),
    ],
)
def test_a_damaged_file_is_named(trained: Path, name: str, damage: Any, message: str) -> None:
    file = trained / name
    content = file.read_bytes()
    file.unlink()
    if damage is not None:
        file.write_bytes(damage(content))
    with pytest.raises(AdapterError, match=f"load: .*{message}") as caught:
        models.load(trained)
    shown = str(caught.value)
    assert str(trained / (name if "describes" not in message else "model.safetensors")) in shown


def test_a_file_of_other_weights_is_named(trained: Path, tmp_path: Path) -> None:
    shutil.copy(trained / "config.json", tmp_path / "config.json")
    shutil.copy(trained / TOKENIZER, tmp_path / TOKENIZER)
    save_file({"other": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(AdapterError, match=r"model.safetensors must hold the weights .*, got other or no blocks"):
        models.load(tmp_path)


def test_the_embedded_model_starts_without_heavy_imports() -> None:
    """From a fresh process to an explanation: neither transformers, nor torch's compiler, nor what only draws."""
    code = (
        "import sys, numpy; from dcam_fast import Explainer, Generation;"
        "Explainer.from_pretrained().explain(numpy.zeros((64, 64, 3), numpy.uint8), generation=Generation(steps=2));"
        "print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {
        "transformers", "huggingface_hub", "torch._dynamo", "torch._inductor", "sympy", "triton", "matplotlib",
        "scipy", "pandas", "typer", "rich.console", "PIL.ImageFont", "pycocotools",
    }  # fmt: skip
    assert not heavy & set(run.stdout.split())
    assert not run.stderr


# -------------------------------------------------------------------------------------------------------- what is asked


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": 3}, TypeError, "load: model must be 'tiny', a folder or a Hub id, got 3"),
        ({"model": None}, TypeError, "load: model must be 'tiny', a folder or a Hub id, got None"),
        ({"device": "cudaa"}, AdapterError, r"load: device must be one that is available \(cpu.*\), got 'cudaa'"),
        ({"device": "cuda:99"}, AdapterError, r"load: device must be one that is available \(cpu.*\), got 'cuda:99'"),
        ({"device": "meta"}, AdapterError, r"load: device must be one that is available \(cpu.*\), got 'meta'"),
        ({"device": None}, AdapterError, r"load: device must be one that is available \(cpu.*\), got 'None'"),
        ({"device": 0}, AdapterError, r"load: device must be one that is available \(cpu.*\), got '0'"),
        ({"dtype": "float99"}, AdapterError, "load: dtype must be one of float32, bfloat16, got 'float99'"),
        ({"dtype": 16}, AdapterError, "load: dtype must be one of float32, bfloat16, got 16"),
        ({"attention": 3}, TypeError, "load: attention must be a str or None, got 3"),
        ({"attention": "causal"}, AdapterError, "tiny: attention must be 'prefix' or 'joint', got 'causal'"),
        ({"attention": ""}, AdapterError, "tiny: attention must be 'prefix' or 'joint', got ''"),
        ({"view": 3}, TypeError, "load: view must be a str or None, got 3"),
        ({"view": "base"}, AdapterError, "load: view must be left out for dcam_tiny, whose options are attention, got"),
        ({"answer_length": 8}, AdapterError, "load: answer_length must be left out for dcam_tiny, whose .*, got 8"),
        ({"answer_length": 0}, ValueError, "load: answer_length must be a positive whole number or None, got 0"),
        ({"answer_length": "8"}, TypeError, "load: answer_length must be a positive whole number or None, got '8'"),
        ({"vision_tower": "a/b"}, AdapterError, "load: vision_tower must be left out for dcam_tiny, .*, got 'a/b'"),
        ({"vision_tower": 3}, TypeError, "load: vision_tower must be a folder, a Hub id or None, got 3"),
        ({"device_map": {"a": 0, "b": "cpu"}}, AdapterError, r"load: device_map must .* one device, got cpu, cuda:0; "),
        ({"device_map": {}}, AdapterError, "load: device_map must place the whole model on one device, got none; "),
        ({"device_map": "nowhere"}, AdapterError, r"load: device must be one that is available .*, got 'nowhere'"),
        ({"trust_remote_code": "yes"}, TypeError, "load: trust_remote_code must be True or False, got 'yes'"),
        ({"max_memory": "1GB"}, TypeError, "Resources: max_memory must be a positive whole number or None, got '1GB'"),
        ({"max_memory": 0.5}, TypeError, "Resources: max_memory must be a positive whole number or None, got 0.5"),
        ({"max_memory": True}, TypeError, "Resources: max_memory must be a positive whole number or None, got True"),
        ({"max_memory": -1}, ValueError, "Resources: max_memory must be a positive whole number or None, got -1"),
        ({"compile": "yes"}, TypeError, "Resources: compile must be True or False, got 'yes'"),
        ({"deterministic": 1}, TypeError, "Resources: deterministic must be True or False, got 1"),
    ],
)
def test_arguments_of_loading(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Explainer.from_pretrained(**arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the error of a machine without CUDA")
def test_cuda_without_cuda_is_one_clear_line(tmp_path: Path) -> None:
    for command in (["explain", "a.png"], ["evaluate", "--limit", "1"], ["bench", "--quick"]):
        result = CliRunner().invoke(app, [*command, "--device", "cuda", "--out", str(tmp_path / "out")])
        assert result.exit_code == 1
        caller = "bench" if command[0] == "bench" else "load"
        assert f"error: {caller}: device must be one that is available (cpu), got 'cuda'" in result.output


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer.from_pretrained("tiny")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prompt": 3}, TypeError, "prompt must be a str or None, got 3"),
        ({"prompt": b"what"}, TypeError, "prompt must be a str or None, got b'what'"),
        ({"method": None}, TypeError, "explain: method must be one of .* or an AttributionMethod, got None"),
        ({"method": 3}, TypeError, "explain: method must be one of .* or an AttributionMethod, got 3"),
        ({"method": dict}, TypeError, "explain: method must be one of .* or an AttributionMethod, got <class 'dict'>"),
        ({"profile": 3}, TypeError, "profile must be a name, a RefineConfig or None, got 3"),
        ({"profile": {"q": 1}}, TypeError, "profile must be a name, a RefineConfig or None, got {'q': 1}"),
        ({"generation": {"steps": 3}}, TypeError, "generation must be a Generation, got {'steps': 3}"),
        ({"generation": None}, TypeError, "generation must be a Generation, got None"),
    ],
)
def test_arguments_of_explaining(
    explainer: Explainer, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    """They are refused before anything is read: there is no such image."""
    for call in (explainer.explain, explainer.stream):
        with pytest.raises(error, match=message):
            call("no-such-file.png", **arguments)


def test_numpy_counts_are_counts(explainer: Explainer) -> None:
    got = explainer.explain(IMAGE, targets=[1], generation=Generation(steps=np.int64(6), block_length=np.int32(6)))  # type: ignore[arg-type]
    assert torch.equal(
        got.maps, explainer.explain(IMAGE, targets=[1], generation=Generation(steps=6, block_length=6)).maps
    )
