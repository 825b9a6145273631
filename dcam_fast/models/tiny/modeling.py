"""The embedded diffusion multimodal LLM: convolutional vision tower, MLP projector, bidirectional transformer.

It has 1.8 M parameters and was trained from scratch on `scenes` with the masked-diffusion objective of LLaDA (arXiv
2502.09992). The sequence is `[image cells | prompt | answer canvas]`. One set of weights serves both attention
topologies of diffusion multimodal LLMs:

* `"prefix"`: image and prompt do not attend to the canvas, so they run once and are cached (LaViDa).
* `"joint"`: every token attends to every other, so each denoising step runs the whole sequence (LLaDA-V).
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dcam_fast.models.adapter import DEFAULT_GENERATION, OPEN, AdapterError
from dcam_fast.models.generation import Generation
from dcam_fast.models.sampling import draw_with_noise, make_generator
from dcam_fast.models.tiny.layers import RMSNorm, TinyConfig, TransformerLayer, VisionTower, attend, rotary_tables
from dcam_fast.models.weights import SINGLE, check_files

Attention = Literal["prefix", "joint"]
CONFIG: Final = "config.json"


@dataclass(frozen=True)
class Denoised:
    """Answers and the step that wrote each of their tokens.

    Attributes:
        tokens: int64 `[B, L]`.
        steps: int64 `[B, L]`, from 0; `OPEN` where the position is still masked.
    """

    tokens: Tensor
    steps: Tensor


class TinyForMaskedDiffusion(nn.Module):
    """The whole model: `forward` returns the logits of every canvas position, `generate` an answer with its steps.

    It is plain torch, because importing transformers takes several times as long as explaining an image.
    """

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.vision = VisionTower(config)
        widen, narrow = nn.Linear(config.vision_sizes[1], 2 * size), nn.Linear(2 * size, size)
        self.projector = nn.Sequential(widen, nn.GELU(), narrow)
        self.embed = nn.Embedding(config.vocab_size, size)
        layers = [TransformerLayer(config) for _ in range(config.num_hidden_layers)]
        self.blocks = nn.ModuleList(layers)  # the name in the weight file
        self.norm = RMSNorm(size)
        self.lm_head = nn.Linear(size, config.vocab_size, bias=False)
        residual_std = 0.02 / math.sqrt(2 * config.num_hidden_layers)
        self._initial_std = {linear: residual_std for layer in layers for linear in (layer.out, layer.down)}
        self._initial_std |= {linear: linear.in_features**-0.5 for linear in (widen, narrow)}
        self.apply(self._init_weights)

    @classmethod
    def from_pretrained(cls, path: Path) -> TinyForMaskedDiffusion:
        """Loads the model from a folder that `save_pretrained` wrote, with weights of the dtype in the file, frozen and
        in evaluation mode.

        Raises:
            AdapterError: for a file that is missing or damaged, or weights that do not match the configuration.
        """
        check_files(path)
        # The initial weights are discarded. The meta device would avoid them, but it imports torch's compiler: seconds.
        with torch.random.fork_rng(devices=[]):
            model = cls(TinyConfig.from_file(path / CONFIG))
        weights, needed = load_file(path / SINGLE), model.state_dict()
        shapes, needed_shapes = (
            {name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (weights, needed)
        )
        wrong = sorted(name for name, _ in shapes.items() ^ needed_shapes.items())
        if wrong:
            raise AdapterError(
                f"load: {path / SINGLE} must hold the weights that {CONFIG} describes, got other or no {wrong[0]}"
            )
        model.load_state_dict(weights, assign=True)
        return model.eval().requires_grad_(False)

    def save_pretrained(self, path: Path) -> None:
        """Writes config.json and model.safetensors into a folder, which is created."""
        path.mkdir(parents=True, exist_ok=True)
        config = {"model_type": self.config.model_type, **asdict(self.config)}
        (path / CONFIG).write_text(json.dumps(config, indent=1) + "\n", "utf-8")
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, path / SINGLE)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self._initial_std.get(module, 0.02))
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def embed_image(self, pixel_values: Tensor, offset: tuple[int, int] = (0, 0)) -> Tensor:
        """From pixels `[B, 3, H, W]` in -1..1 to cells `[B, H/8 * W/8, D]`, row by row.

        The sides are multiples of 8 and at most 8 * `grid`; `offset` is the row and column of the first cell.
        """
        return self.projector(self.vision(pixel_values, offset)).flatten(1, 2)

    def layers(self) -> list[TransformerLayer]:
        """The transformer layers in order."""
        return cast(list[TransformerLayer], list(self.blocks))

    def rotary(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return rotary_tables(positions, self.config.hidden_size // self.config.num_attention_heads, dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits `[..., V]` of hidden states `[..., D]` at the output of the last layer."""
        return self.lm_head(self.norm(hidden)).float()

    def forward(
        self,
        pixel_values: Tensor,
        prompt: Tensor,
        canvases: Tensor,
        attention: Attention = "prefix",
        offset: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """Logits of `K` independent canvases that share image and prompt.

        With `"prefix"` the canvases are packed into one sequence and do not attend to each other.

        Args:
            pixel_values: float32 `[B, 3, H, W]` in -1..1.
            prompt: int64 `[B, P]`.
            canvases: int64 `[B, K, L]`.
            attention: the topology; `"joint"` takes one canvas.
            offset: row and column of the image's first cell.

        Returns:
            Float32 `[B, K, L, V]`.

        Raises:
            ValueError: for several canvases with joint attention.
        """
        groups, length = canvases.shape[1:]
        if attention == "joint" and groups != 1:
            raise ValueError(f"forward: canvases must be [B, 1, L] with joint attention, got K = {groups}")
        image = self.embed_image(pixel_values, offset)
        x = torch.cat((image, self.embed(prompt).to(image.dtype), self.embed(canvases.flatten(1)).to(image.dtype)), 1)
        prefix = image.shape[1] + prompt.shape[1]
        answer = prefix + torch.arange(length, device=x.device).repeat(groups)
        rotary = self.rotary(torch.cat((torch.arange(prefix, device=x.device), answer)), x.dtype)
        for layer in self.layers():
            x = layer(x, rotary, 0 if attention == "joint" else prefix, groups)
        return self.logits(x[:, prefix:]).unflatten(1, (groups, length))

    def generate(
        self,
        pixel_values: Tensor,
        prompt: Tensor,
        generation: Generation = DEFAULT_GENERATION,
        attention: Attention = "prefix",
    ) -> Denoised:
        """The last answer of `denoise`.

        Args:
            pixel_values: float32 `[B, 3, H, W]` in -1..1.
            prompt: int64 `[B, P]`.
            generation: as in `denoise`.
            attention: the topology.

        Raises:
            ValueError: for steps or a block length that do not divide the answer.
        """
        with torch.no_grad():
            image = self.embed_image(pixel_values)
        (finished,) = deque(self.denoise(image, prompt, generation, attention), maxlen=1)
        return finished

    def denoise(
        self,
        image: Tensor,
        prompt: Tensor,
        generation: Generation = DEFAULT_GENERATION,
        attention: Attention = "prefix",
    ) -> Iterator[Denoised]:
        """Denoises an answer with low-confidence remasking (LLaDA, section 2.4); yields it after every step.

        Every step predicts all masked positions of the current block and unmasks the most confident ones. Blocks are
        denoised from left to right. A temperature (None: 0) adds LLaDA's noise.

        Args:
            image: `[B, N, D]`, from `embed_image`.
            prompt: int64 `[B, P]`.
            generation: its steps are a multiple of the number of blocks (None: one token a step), and its block length
                divides the answer's length (None: the whole answer).
            attention: the topology.

        Raises:
            ValueError: for steps or a block length that do not divide the answer.
        """
        length = self.config.answer_length
        block_length = length if generation.block_length is None else generation.block_length
        steps = length if generation.steps is None else generation.steps
        if not 1 <= block_length <= length or length % block_length:
            raise ValueError(f"generate: block_length must be a divisor of {length}, got {block_length}")
        count = length // block_length
        if steps % count or not count <= steps <= length:
            raise ValueError(f"generate: steps must be a multiple of {count} from {count} to {length}, got {steps}")
        with torch.no_grad():
            logits_fn = self._logits_fn(image, prompt, attention)
        canvas = torch.full((len(prompt), length), self.config.mask_token_id, device=prompt.device)
        written = torch.full_like(canvas, OPEN)
        per_block = steps // count
        temperature, generator = generation.temperature or 0.0, make_generator(generation, canvas.device)
        for step in range(steps):
            block, inner = divmod(step, per_block)
            due, done = (math.ceil(block_length * end / per_block) for end in (inner + 1, inner))
            with torch.no_grad():  # not around the yield: the caller has its own grad mode
                logits = logits_fn(canvas)
                logits[..., self.config.mask_token_id] = -torch.inf
                tokens = draw_with_noise(logits, temperature, generator)
                confidence = logits.softmax(-1).gather(-1, tokens[..., None])[..., 0]
                confidence = confidence.masked_fill(canvas != self.config.mask_token_id, -1.0)
                confidence[:, : block * block_length] = -1.0
                confidence[:, (block + 1) * block_length :] = -1.0
                chosen = confidence.topk(due - done, 1).indices
                canvas = canvas.scatter(1, chosen, tokens.gather(1, chosen))
                written = written.scatter(1, chosen, step)
            yield Denoised(canvas, written)

    def _logits_fn(self, image: Tensor, prompt: Tensor, attention: Attention) -> Callable[[Tensor], Tensor]:
        """A function from canvases, int64 `[B, L]`, to their logits. What does not depend on them runs once."""
        head = torch.cat((image, self.embed(prompt)), 1)
        prefix, length = head.shape[1], self.config.answer_length
        positions = torch.arange(prefix + length, device=head.device)
        rotary_head = self.rotary(positions[:prefix], head.dtype)
        rotary_canvas = self.rotary(positions[prefix:], head.dtype)
        *lower, last = self.layers()
        if attention == "joint":
            rotary = self.rotary(positions, head.dtype)

            def joint_logits(canvas: Tensor) -> Tensor:
                x = torch.cat((head, self.embed(canvas)), 1)
                for layer in lower:
                    x = layer(x, rotary)
                context = last.context(x[:, :prefix], rotary_head)
                return self.logits(last.extend(x[:, prefix:], rotary_canvas, *context))

            return joint_logits
        cache = []
        for layer in lower:
            q, k, v = layer.project(head, rotary_head)
            head = layer.finish(head, attend(q, k, v))
            cache.append((k, v))
        cache.append(last.context(head, rotary_head))

        def prefix_logits(canvas: Tensor) -> Tensor:
            x = self.embed(canvas)
            for layer, (keys, values) in zip(self.layers(), cache, strict=True):
                x = layer.extend(x, rotary_canvas, keys, values)
            return self.logits(x)

        return prefix_logits
