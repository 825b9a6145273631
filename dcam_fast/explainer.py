"""`Explainer`: an image and a prompt in, an answer and a map for each of its words out."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import torch

from dcam_fast import models
from dcam_fast.attribution import AttributionMethod, Resources
from dcam_fast.attribution.methods.gradient_cam import GradientCAM
from dcam_fast.attribution.methods.presets import METHODS, method_named
from dcam_fast.attribution.resources import using
from dcam_fast.attribution.threads import threads_of
from dcam_fast.checks import check_count, check_text
from dcam_fast.config import RefineConfig
from dcam_fast.config import profile as profile_named
from dcam_fast.explanation import Explanation
from dcam_fast.images import ImageSource, load_image
from dcam_fast.models.adapter import Adapter
from dcam_fast.ops.cuda_graphs import GraphCache
from dcam_fast.session import Session, Targets, checked_targets, choose
from dcam_fast.streaming import Stream


class Explainer:
    """Explains the answers of one model. Holds the model and, on a GPU, the CUDA graphs of its last refinements: calls
    do not depend on each other."""

    def __init__(
        self,
        adapter: Adapter[Any],
        *,
        max_memory: int | None = None,
        compile: bool = False,
        deterministic: bool = False,
    ) -> None:
        """See `dcam_fast.attribution.Resources` for what the passes may use of the machine."""
        self.adapter = adapter
        self.resources = Resources(max_memory, compile, deterministic)
        self._graphs = GraphCache()

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] = "tiny",
        *,
        device: str | torch.device = "cpu",
        attention: str | None = None,
        trust_remote_code: bool = False,
        dtype: torch.dtype | str | None = None,
        max_memory: int | None = None,
        compile: bool = False,
        deterministic: bool = False,
    ) -> Explainer:
        """An explainer of a model by name or folder; see `dcam_fast.models.load` for the first arguments and errors,
        and `dcam_fast.attribution.Resources` for the others."""
        Resources(max_memory, compile, deterministic)  # whatever is wrong with them, before a model is loaded
        adapter = models.load(
            model, device=device, attention=attention, trust_remote_code=trust_remote_code, dtype=dtype
        )
        return cls(adapter, max_memory=max_memory, compile=compile, deterministic=deterministic)

    def explain(
        self,
        image: ImageSource,
        prompt: str | None = None,
        targets: Targets = "content",
        *,
        method: str | AttributionMethod = "default",
        profile: str | RefineConfig | None = None,
        steps: int | None = None,
        block_length: int | None = None,
    ) -> Explanation:
        """Answers ``prompt`` about ``image`` and explains words of the answer.

        Args:
            image: path, PIL image, array or tensor of any size and mode; see `dcam_fast.images.load_image`.
            prompt: what to ask (None: the model's own, usually a session for a caption).
            targets: ``"content"`` (every content word), ``"all"`` (every word and sign), or words, phrases and token
                positions in a list, tuple, 1-D array or tensor, or any other iterable with an order. Case and the signs
                between words do not matter. A phrase has the mean map of its tokens; ``"ring#2"`` is the second ring.
                See `dcam_fast.words` for what a word is.
            method: a name of `dcam_fast.attribution.METHODS` (``"default"``, ``"published"``, ``"grad_cam"``, ...), a
                `GradientCAM` or any other `AttributionMethod`.
            profile: how maps are refined: ``"default"``, ``"released"``, ``"paper"`` or a `RefineConfig` (None: the
                method's).
            steps: denoising steps of the generation (None: the model's own).
            block_length: tokens per block of the generation (None: the model's own).

        Raises:
            ValueError: for an image, prompt, target or option that cannot be used, before anything is computed where
                that can be told, else as soon as it can.
            TypeError: for an argument of the wrong kind, before anything is computed.
        """
        wanted = checked_targets(targets, "explain")
        settings = method_named(method)
        steps, block_length = _check_options("explain", prompt, profile, steps, block_length)
        with using(self.resources), threads_of(self.adapter):
            session = self._session(image, prompt, _name_of(method), settings, profile)
            started = time.perf_counter()
            trajectory = self.adapter.generate(session.inputs, steps, block_length)
            generated = time.perf_counter()
            chosen = choose(wanted, self.adapter, trajectory)
            raw = session.raw_maps(trajectory, chosen)
            return session.explanation(trajectory, chosen, raw, {"generate": generated - started}, generated)

    def stream(
        self,
        image: ImageSource,
        prompt: str | None = None,
        *,
        method: str | AttributionMethod = "default",
        profile: str | RefineConfig | None = None,
        steps: int | None = None,
        block_length: int | None = None,
    ) -> Stream:
        """Answers ``prompt`` about ``image`` and explains every token at the denoising step that writes it, while the
        answer goes on being written.

        The result is an iterator of `Step`; at its end, its ``explanation()`` is the whole. The answer is the one that
        `explain` would get. Whoever has seen enough leaves the loop, or calls ``close()``.

        Args:
            image, prompt, profile, steps, block_length: as in `explain`.
            method: a name or `GradientCAM` as in `explain`. Its ``state`` becomes ``"committed"``, the only one
                available while the answer is being written.

        Raises:
            ValueError, TypeError: as in `explain`, and where the model or the method cannot be stepped.
        """
        settings = method_named(method)
        steps, block_length = _check_options("stream", prompt, profile, steps, block_length)
        if not isinstance(settings, GradientCAM):
            raise ValueError(f"stream: method must be of Diffusion-CAM's kind, a GradientCAM, got {method!r}")
        committed = replace(settings, state="committed")
        with using(self.resources), threads_of(self.adapter):
            session = self._session(image, prompt, f"{_name_of(method)}, streamed", committed, profile)
            return Stream(session, self.adapter.denoise(session.inputs, steps, block_length))

    def _session(
        self,
        image: ImageSource,
        prompt: str | None,
        method_name: str,
        settings: AttributionMethod,
        profile: str | RefineConfig | None,
    ) -> Session:
        named = profile_named(profile) if isinstance(profile, str) else profile
        config = settings.profile if named is None else named
        inputs = self.adapter.encode(load_image(image), self.adapter.default_prompt if prompt is None else prompt)
        return Session(
            adapter=self.adapter,
            inputs=inputs,
            method=settings,
            method_name=method_name,
            config=config,
            profile_name=profile if isinstance(profile, str) else repr(config),
            resources=self.resources,
            graphs=self._graphs,
        )


def _check_options(
    caller: str,
    prompt: str | None,
    profile: str | RefineConfig | None,
    steps: int | None,
    block_length: int | None,
) -> tuple[int | None, int | None]:
    """``steps`` and ``block_length`` as ints. Raises TypeError or ValueError for an option of the wrong kind."""
    check_text(caller, "prompt", prompt)
    if isinstance(profile, str):
        profile_named(profile)
    elif profile is not None and not isinstance(profile, RefineConfig):
        raise TypeError(f"{caller}: profile must be a name, a RefineConfig or None, got {profile!r}")
    return check_count(caller, "steps", steps), check_count(caller, "block_length", block_length)


def _name_of(method: str | AttributionMethod) -> str:
    if isinstance(method, str):
        return method
    return next((name for name, known in METHODS.items() if known == method), "custom")
