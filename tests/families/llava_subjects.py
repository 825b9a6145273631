"""Models under test, the real ones or stubs, behind one interface: the adapter's answers, and those of the authors' own
code."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from checks import PROMPT, Generated
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from dcam_fast.models.generation import Generation
from dcam_fast.models.llava.adapter import LlavaInputs
from dcam_fast.models.llava.lavida import LavidaAdapter
from dcam_fast.models.llava.llada_v import MASK_TOKEN, LladavAdapter

SPECIAL = ("<|endoftext|>", "<|eot_id|>", "<mask>")
WORDS = ("<unk>", "what", "is", "this", "system", "user", "assistant")
VOCABULARY = (*SPECIAL, *WORDS, *(f"Ġw{i}" if i % 3 else f"x{i}" for i in range(54)))
MASK = VOCABULARY.index("<mask>")
LENGTH = 8
TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} <|eot_id|> {% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)


@cache
def make_tokenizer(size: int = len(VOCABULARY)) -> PreTrainedTokenizerFast:
    """Of `size` words, those above first."""
    words = (*VOCABULARY, *(f"Ġy{i}" for i in range(len(VOCABULARY), size)))
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token=SPECIAL[0])
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:])})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def shake(model: nn.Module, seed: int = 3) -> None:
    """Random weights as large as trained ones are, so that layers have an effect."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.8 / parameter[0].numel() ** 0.5)
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight)
            if hasattr(module, "image_newline"):
                nn.init.normal_(module.image_newline)


@contextmanager
def outputs_of(module: nn.Module, take: Callable[[Any], Tensor]) -> Iterator[list[Tensor]]:
    """What `module` puts out while the context lasts."""
    kept: list[Tensor] = []
    hook = module.register_forward_hook(lambda _module, _args, out: kept.append(take(out)))
    try:
        yield kept
    finally:
        hook.remove()


@contextmanager
def inputs_of(module: nn.Module, take: Callable[[Tensor], Tensor]) -> Iterator[list[Tensor]]:
    """What goes into `module` while the context lasts."""
    kept: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _module, args: kept.append(take(args[0])))
    try:
        yield kept
    finally:
        hook.remove()


def tiles_of(model: Any, image: NDArray[np.uint8]) -> tuple[list[Tensor], tuple[int, int]]:
    """A photo's tiles and (width, height), by the authors' own code."""
    picture, processor = Image.fromarray(image), model.get_vision_tower().image_processor
    utils = importlib.import_module("llava.mm_utils")
    return list(utils.process_images([picture], processor, model.config)), picture.size


class LavidaSubject:
    """A LaViDa of whichever package `llava` is imported, with its adapter."""

    def __init__(self, model: Any, attention: Any, view: Any = "grid") -> None:
        self.prefix = attention == "prefix"
        self.adapter = LavidaAdapter(
            model,
            make_tokenizer(),
            name="tiny-lavida",
            attention=attention,
            view=view,
            mask_token=MASK,
            answer_length=LENGTH,
        )

    def generate(self, image: NDArray[np.uint8], generation: Generation) -> Generated:
        """By the authors' own code."""
        adapter, (tiles, size) = self.adapter, tiles_of(self.adapter.model, image)
        with outputs_of(adapter.core, lambda out: out.logits[0, -LENGTH:].clone()) as logits:
            tokens, history = adapter.model.generate(
                adapter._tokenize(PROMPT)[None],
                images=tiles,
                image_sizes=[size],
                max_new_tokens=LENGTH,
                block_length=generation.block_length,
                step_ratio=generation.steps / LENGTH,
                temperature=generation.temperature or 0.0,
                prefix_lm=self.prefix,
                schedule="shift",
                mask_id=MASK,
                verbose=True,
            )
        used = logits[1:] if self.prefix else logits
        return Generated(tokens[0, -LENGTH:], [canvas[0, -LENGTH:] for canvas in history], used)

    def full(self, inputs: LlavaInputs, canvas: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits `[L, V]` by the authors' own forward, and the image stream after every layer, with a graph."""
        core, states = self.adapter.core, {}

        def keeping(index: int) -> Callable[..., None]:
            def hook(_module: Any, _args: Any, out: Any) -> None:
                if index not in states:  # the prefix comes by first
                    states[index] = out[0].requires_grad_()

            return hook

        hooks = [layer.register_forward_hook(keeping(index)) for index, layer in enumerate(core.transformer.blocks)]
        try:
            with torch.enable_grad():
                answer = core.transformer.wte(canvas)[None]
                if self.prefix:
                    past = core(None, input_embeddings=inputs.embedded, use_cache=True).attn_key_values
                    logits = core(None, input_embeddings=answer, past_key_values=past).logits
                else:
                    logits = core(None, input_embeddings=torch.cat((inputs.embedded, answer), 1)).logits
        finally:
            for hook in hooks:
                hook.remove()
        return logits[0, -LENGTH:], [states[index] for index in sorted(states)]


class LladavSubject:
    """A LLaDA-V of whichever package `llava` is imported, with its adapter."""

    def __init__(self, model: Any, view: Any = "grid") -> None:
        tokenizer = make_tokenizer(model.config.vocab_size)
        with torch.no_grad():  # so that guesses are not the same everywhere
            model.get_model().embed_tokens.weight[MASK_TOKEN] = 0.01
        self.adapter = LladavAdapter(model, tokenizer, name="tiny-llada-v", view=view, answer_length=LENGTH)
        assert self.adapter.mask_token == MASK_TOKEN

    def generate(self, image: NDArray[np.uint8], generation: Generation) -> Generated:
        """By the authors' own code."""
        adapter, (tiles, size) = self.adapter, tiles_of(self.adapter.model, image)
        with (
            outputs_of(adapter.model.lm_head, lambda out: out[0, -LENGTH:].clone()) as logits,
            inputs_of(adapter.layers[0], lambda embedded: embedded[0, -LENGTH:].clone()) as embeddings,
        ):
            tokens = adapter.model.generate(
                adapter._tokenize(PROMPT)[None],
                images=tiles,
                image_sizes=[size],
                gen_length=LENGTH,
                block_length=generation.block_length,
                steps=generation.steps,
                temperature=generation.temperature or 0.0,
                tokenizer=adapter.tokenizer,
                stopping_criteria=list(adapter.end_tokens),
            )[0]
        table = adapter.core.embed_tokens.weight
        canvases = [torch.cdist(embedding, table).argmin(-1) for embedding in embeddings[1:]]
        return Generated(tokens, canvases, logits)

    def full(self, inputs: LlavaInputs, canvas: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits `[L, V]` by the authors' own forward, and the image stream after every layer, with a graph."""
        core = self.adapter.core
        with torch.enable_grad():
            embedded = torch.cat((inputs.embedded, core.embed_tokens(canvas)[None]), 1).requires_grad_()
            out = core(inputs_embeds=embedded, output_hidden_states=True)
            return self.adapter.model.lm_head(out[0][0, -LENGTH:]), list(out.hidden_states[1:])
