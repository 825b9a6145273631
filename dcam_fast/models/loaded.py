"""Models that the caller has loaded: what they may be wrapped in, and what cannot be explained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from dcam_fast.models.adapter import AdapterError

AUTOMATIC: Final = ("auto", "balanced", "balanced_low_0", "sequential")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside wrappers of `torch.compile` and peft. Adapters in its layers, such as LoRA's, stay.

    Raises:
        AdapterError: for a prompt that peft has learned, which only the wrapper puts before the tokens.
    """
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif callable(get_base_model := getattr(model, "get_base_model", None)):
            config: Any = model.active_peft_config
            if config.is_prompt_learning:
                raise AdapterError(
                    "from_model: model must have its adapters in its layers, as with LoRA, got a prompt that peft "
                    f"learned ({config.peft_type.value})"
                )
            model = get_base_model()
        else:
            return model


def check_loaded(model: nn.Module) -> None:
    """Checks that the layers of a model can run one at a time on one device, and that gradients pass through them.

    Raises:
        AdapterError: for weights on several devices, of another dtype, or made in inference mode, and for quantized
            layers without gradients.
    """
    tensors = [*model.parameters(), *model.buffers()]
    devices = {str(tensor.device) for tensor in tensors}
    placed = getattr(model, "hf_device_map", None)
    if isinstance(placed, Mapping) and len(set(placed.values())) > 1:
        devices |= {str(place) for place in placed.values()}
    if len(devices) != 1 or "meta" in devices:
        raise AdapterError(
            f"from_model: model must be on one device, got {', '.join(sorted(devices)) or 'no weights'}; load it with "
            "device_map={'': 'cuda:0'} or, where it is too large, in 8 or 4 bits"
        )
    if any(tensor.is_inference() for tensor in tensors):
        raise AdapterError(
            "from_model: model must be loaded outside torch.inference_mode(), got weights made inside it, through "
            "which torch has no gradients; from_pretrained may be called inside"
        )
    dtypes = {tensor.dtype for tensor in model.parameters() if _is_float(tensor)}
    if wrong := dtypes - {torch.float32, torch.bfloat16}:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in wrong))
        raise AdapterError(
            f"from_model: weights must be float32 or bfloat16 (gradients of nearly certain tokens underflow in "
            f"float16), got {names}; load the model with dtype=torch.bfloat16, or call model.bfloat16()"
        )
    _check_quantized(model, next(iter(dtypes), torch.float32))


def _is_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.element_size() > 1  # quantized weights have one byte or less


def _check_quantized(model: nn.Module, dtype: torch.dtype) -> None:
    """Runs one row through one quantized layer of each kind: some kinds have no backward pass, and would cut the graph
    without an error wherever a residual connection leads around them."""
    kinds = {type(module): (name, module) for name, module in model.named_modules() if _is_quantized(module)}
    for kind, (name, module) in kinds.items():
        device = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), None)
        with torch.enable_grad():
            row = torch.ones(1, module.in_features, dtype=dtype, device=device, requires_grad=True)  # type: ignore[call-overload]
            output = module(row)
        if not output.requires_grad:
            raise AdapterError(
                f"from_model: quantized layers must let gradients pass, as those of bitsandbytes do, got {name}, a "
                f"{kind.__module__}.{kind.__qualname__}; load the model in bfloat16 or with bitsandbytes"
            )


def _is_quantized(module: nn.Module) -> bool:
    """Whether a module is a linear layer with other weights than torch's."""
    if not isinstance(getattr(module, "in_features", None), int) or isinstance(module, nn.Embedding):
        return False
    if any(hasattr(child, "in_features") for child in module.modules() if child is not module):
        return False  # a wrapper, such as LoRA's
    weight = vars(module).get("_parameters", {}).get("weight")
    return not (type(weight) is nn.Parameter and _is_float(weight))


def name_of(model: Any) -> str:
    """What a loaded model is called in results: by its checkpoint, else by its kind."""
    return Path(getattr(model.config, "_name_or_path", "")).name or str(model.config.model_type)


def one_device(device_map: object) -> str:
    """The device of a `device_map` of transformers that names only one.

    >>> one_device({"": 0}), one_device("cpu")
    ('cuda:0', 'cpu')

    Raises:
        AdapterError: for several devices, and for an automatic map where there are several.
    """
    if isinstance(device_map, str) and device_map in AUTOMATIC:
        count = torch.cuda.device_count()
        named: list[object] = [f"cuda:{index}" for index in range(count)] or ["cpu"]
    else:
        named = list(device_map.values()) if isinstance(device_map, Mapping) else [device_map]
    names = {f"cuda:{place}" if isinstance(place, int) else str(place) for place in named}
    if len(names) != 1:
        raise AdapterError(
            f"load: device_map must place the whole model on one device, got {', '.join(sorted(names)) or 'none'}; "
            "pass device='cuda:0', or a smaller dtype"
        )
    return names.pop()


def tokenizer_and_image_processor(family: str, processor: Any) -> tuple[Any, Any]:
    """The two parts of a processor of transformers, or of a pair of them.

    Raises:
        AdapterError: for anything else.
    """
    if isinstance(processor, tuple | list):
        parts = tuple(processor)
    else:
        parts = getattr(processor, "tokenizer", None), getattr(processor, "image_processor", None)
    if len(parts) != 2 or not is_tokenizer(parts[0]) or not callable(parts[1]):
        raise AdapterError(
            f"{family}: processor must be (tokenizer, image processor) or an AutoProcessor with both, got "
            f"{type(processor).__name__}"
        )
    return parts


def is_tokenizer(value: Any) -> bool:
    """Whether `value` is a tokenizer of transformers, with a chat template or room for one."""
    return callable(value) and hasattr(value, "apply_chat_template") and hasattr(value, "convert_tokens_to_ids")
