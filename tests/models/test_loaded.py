"""Models in memory: the embedded one in many states, and what cannot be explained."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from torch import Tensor, nn

from dcam_fast import Explainer, models, sample_image
from dcam_fast.models import AdapterError
from dcam_fast.models.freezing import frozen
from dcam_fast.models.generation import Generation
from dcam_fast.models.pretrained import head_logits
from dcam_fast.models.tiny import WEIGHTS
from dcam_fast.models.tiny.adapter import TinyAdapter
from dcam_fast.models.tiny.modeling import TinyForMaskedDiffusion

PROMPT = "describe the image"
GENERATION = Generation(steps=2)


def make_model() -> TinyForMaskedDiffusion:
    return TinyForMaskedDiffusion.from_pretrained(WEIGHTS).float()


def maps_of(model: nn.Module, **options: Any) -> Tensor:
    explainer = Explainer.from_model(model, **options)
    return explainer.explain(sample_image(), PROMPT, [0], generation=GENERATION).raw_maps


def refusal(model: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(AdapterError) as caught:
        Explainer.from_model(model, *arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize("attention", ["prefix", "joint"])
def test_the_embedded_model(check_left_alone: Callable[..., None], attention: str) -> None:
    check_left_alone(models.load("tiny", attention=attention), make_model(), None, PROMPT, attention=attention)


def test_a_backward_pass_that_began_before() -> None:
    """The graph of the caller's loss survives an explanation."""
    model = make_model().train().requires_grad_(True)
    pixels, prompt = torch.zeros(1, 3, 64, 64), torch.zeros(1, 8, dtype=torch.int64)

    def gradients(between: Callable[[], object]) -> list[Tensor]:
        loss = model(pixels, prompt, torch.ones(1, 1, 36, dtype=torch.int64)).sum()
        between()
        return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True))

    plain = gradients(lambda: None)
    for got, expected in zip(gradients(lambda: maps_of(model)), plain, strict=True):
        assert torch.equal(got, expected)


def test_threads_and_nested_contexts_share_a_model() -> None:
    """The last that leaves restores it, even if the first left before."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout().eval())
    entered, left = threading.Event(), threading.Event()

    def other() -> None:
        with frozen(model):
            entered.set()
            left.wait()

    thread = threading.Thread(target=other)
    with frozen(model), frozen(model):
        thread.start()
        entered.wait()
    assert not model.training
    assert not model[0].weight.requires_grad
    left.set()
    thread.join()
    assert model.training
    assert model[0].weight.requires_grad
    assert not model[1].training


def test_a_shared_parameter_and_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    with contextlib.suppress(KeyError), frozen(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
        raise KeyError
    assert all(parameter.requires_grad for parameter in model.parameters())


# ---------------------------------------------------------------------------------------------------------- wrappers


def test_a_compiled_model() -> None:
    model = make_model()
    assert torch.equal(maps_of(torch.compile(model, backend="eager")), maps_of(model))


def test_lora() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    plain = maps_of(make_model())
    config = peft.LoraConfig(target_modules=["qkv", "lm_head"], init_lora_weights=False, lora_dropout=0.5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wrapped = peft.get_peft_model(make_model(), config)
    wrapped.train()
    trainable = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    unmerged = maps_of(wrapped)
    assert torch.equal(maps_of(wrapped), unmerged)  # no dropout
    assert [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad] == trainable
    assert wrapped.training
    assert not torch.allclose(unmerged, plain, rtol=1e-3)
    with wrapped.disable_adapter():
        assert torch.equal(maps_of(wrapped), plain)
    wrapped.merge_adapter()
    torch.testing.assert_close(maps_of(wrapped), unmerged, rtol=1e-2, atol=1e-2 * float(unmerged.abs().max()))
    wrapped.unmerge_adapter()
    merged = maps_of(wrapped.merge_and_unload())
    torch.testing.assert_close(merged, unmerged, rtol=1e-2, atol=1e-2 * float(unmerged.abs().max()))


def test_a_learned_prompt() -> None:
    wrapped = make_model()
    learned = SimpleNamespace(is_prompt_learning=True, peft_type=SimpleNamespace(value="PROMPT_TUNING"))
    wrapped.get_base_model, wrapped.active_peft_config = make_model, learned  # type: ignore[assignment]
    assert "got a prompt that peft learned (PROMPT_TUNING)" in refusal(wrapped)


# ------------------------------------------------------------------------------------------------------ quantization


class EightBit(nn.Module):
    """A linear layer with int8 weights, one scale for each row."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((linear.weight.detach() / scale).round().to(torch.int8), requires_grad=False)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale)


class NoBackward(EightBit):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def quantized(kind: type[EightBit]) -> TinyForMaskedDiffusion:
    model = make_model()
    for layer in model.layers():
        layer.qkv = kind(layer.qkv)  # type: ignore[assignment]
    model.lm_head = kind(model.lm_head)  # type: ignore[assignment]
    return model


def test_eight_bits() -> None:
    model = quantized(EightBit)
    codes = model.layers()[0].qkv.weight.clone()
    maps, plain = maps_of(model), maps_of(make_model())
    assert torch.equal(model.layers()[0].qkv.weight, codes)
    assert bool(maps.isfinite().all())
    correlation = torch.corrcoef(torch.stack((maps.flatten(), plain.flatten())))[0, 1]
    assert correlation > 0.9


def test_quantized_layers_without_gradients() -> None:
    message = refusal(quantized(NoBackward))
    assert "quantized layers must let gradients pass, as those of bitsandbytes do, got " in message
    assert "NoBackward" in message


@pytest.mark.parametrize("bits", [8, 4])
def test_bitsandbytes(bits: int) -> None:
    layers = pytest.importorskip("bitsandbytes.nn", reason="bitsandbytes is not installed")
    model = make_model()
    for layer in model.layers():
        old = layer.up
        kind = layers.Linear8bitLt if bits == 8 else layers.Linear4bit
        extra = {"has_fp16_weights": False} if bits == 8 else {"compute_dtype": torch.float32}
        layer.up = kind(old.in_features, old.out_features, bias=False, **extra)
        layer.up.load_state_dict(old.state_dict())
        layer.up.to("cpu")
    maps, plain = maps_of(model), maps_of(make_model())
    assert bool(maps.isfinite().all())
    assert torch.corrcoef(torch.stack((maps.flatten(), plain.flatten())))[0, 1] > 0.7


def test_logits_of_any_head() -> None:
    head, states, tokens = nn.Linear(8, 20), torch.randn(2, 150, 8), torch.tensor([3, 17])
    expected = head(states)[..., tokens]
    for some in (head, nn.Sequential(head)):
        torch.testing.assert_close(head_logits(some, states, tokens), expected)


# ------------------------------------------------------------------------------------------------- what is refused


def test_several_devices() -> None:
    model = make_model()
    model.hf_device_map = {"": "cpu"}  # type: ignore[assignment]
    assert models.adapter_of(model).device.type == "cpu"
    model.hf_device_map = {"vision": 0, "blocks": 1}  # type: ignore[assignment]
    assert "model must be on one device, got 0, 1, cpu; load it with device_map={'': 'cuda:0'}" in refusal(model)
    offloaded = make_model()
    offloaded.lm_head.to("meta")
    assert "model must be on one device, got cpu, meta; " in refusal(offloaded)


def test_weights_that_cannot_be_differentiated() -> None:
    with torch.inference_mode():
        model = make_model()
        model.lm_head.weight = nn.Parameter(torch.randn(58, 128))
    assert "model must be loaded outside torch.inference_mode(), got weights made inside it" in refusal(model)
    for dtype in (torch.float16, torch.float64):
        message = refusal(make_model().to(dtype))
        assert "weights must be float32 or bfloat16" in message
        assert f"got {str(dtype).removeprefix('torch.')}; load the model with" in message
        assert "call model.bfloat16()" in message
    assert maps_of(make_model().bfloat16()).dtype is torch.float32


def test_other_models() -> None:
    known = ", ".join(sorted(models.FAMILIES))
    assert f"must have a config with a model_type of {known}, got Linear with None" in refusal(nn.Linear(2, 2))
    other = nn.Linear(2, 2)
    other.config = SimpleNamespace(model_type="dcam_tiny")  # type: ignore[assignment]
    assert "tiny: model must be a TinyForMaskedDiffusion, got Linear" in refusal(other)
    with pytest.raises(TypeError, match="from_model: model must be a torch module, got str"):
        Explainer.from_model("tiny")  # type: ignore[arg-type]
    assert "answer_length must be left out for dcam_tiny, whose options are attention, got 8" in refusal(
        make_model(), answer_length=8
    )


def test_names() -> None:
    model = make_model()
    assert models.adapter_of(model).name == "dcam_tiny"
    assert models.adapter_of(model, name="mine").name == "mine"


# -------------------------------------------------------------------------------------------------------------- hub


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[bool]]:
    """A Hub with one model, and whether each request was for the cache alone."""
    folder, requests = tmp_path / "0123abc", []

    def snapshot_download(name: str, local_files_only: bool = False, **_options: Any) -> str:
        requests.append(local_files_only)
        if name != "owner/tiny" or (local_files_only and not folder.exists()):
            raise FileNotFoundError("no such model. Really.\nMore lines")
        if not local_files_only and not (folder / "model.safetensors").exists():
            make_model().save_pretrained(folder)
            (folder / "tokenizer.json").write_bytes((WEIGHTS / "tokenizer.json").read_bytes())
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return folder, requests


def test_a_hub_id(snapshot: tuple[Path, list[bool]]) -> None:
    _, requests = snapshot
    assert models.load("owner/tiny").name == "owner/tiny"
    assert requests == [True, False]
    assert models.load("owner/tiny").name == "owner/tiny"
    assert requests == [True, False, True]  # from the cache
    with pytest.raises(AdapterError) as caught:
        models.load("owner/none")
    assert str(caught.value) == (
        "load: 'owner/none' must be a folder, in the local Hub cache, or on the Hub and within reach, got "
        "FileNotFoundError (no such model); run `hf download owner/none` where there is a network, or name a folder"
    )


def test_a_snapshot_without_its_weights_is_completed(snapshot: tuple[Path, list[bool]]) -> None:
    folder, requests = snapshot
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "dcam_tiny"}))
    assert models.load("owner/tiny").name == "owner/tiny"
    assert requests == [True, False]


@pytest.mark.parametrize("name", ["no/such/folder", "./model", "/no-such-folder", "tiny2"])
def test_what_is_no_hub_id_is_a_folder(snapshot: tuple[Path, list[bool]], name: str) -> None:
    with pytest.raises(AdapterError, match=r"a folder with a config\.json, or a Hub id, got"):
        models.load(name)
    assert not snapshot[1]


def test_a_processor_of_another_family_is_refused() -> None:
    with pytest.raises(AdapterError, match=r"^tiny: processor must be a tokenizers.Tokenizer or None, got int$"):
        Explainer.from_model(TinyAdapter().model, 5)


def test_a_device_map_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(AdapterError, match=r"^load: device must be one that is available .*, got '\[1\]'$"):
        Explainer.from_pretrained(device_map=[1])


@pytest.mark.parametrize("encodings", [-1, True, 1.5, "2", None])
def test_the_number_of_encodings_is_checked(encodings: Any) -> None:
    kind = ValueError if encodings == -1 else TypeError
    with pytest.raises(kind, match=r"^Explainer: encodings must be a whole number from 0, got "):
        Explainer(TinyAdapter(), encodings=encodings)
