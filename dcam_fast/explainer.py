"""`Explainer`: from an image and a prompt to an answer and a map for each of its words."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable
from dataclasses import replace
from typing import Any

import torch

from dcam_fast import models
from dcam_fast.attribution import AttributionMethod, Resources
from dcam_fast.attribution.methods.gradient_cam import GradientCAM
from dcam_fast.attribution.methods.presets import method_for
from dcam_fast.attribution.resources import computing
from dcam_fast.budget import Budget, CostModel, levels
from dcam_fast.checks import check_text
from dcam_fast.config import RefineConfig
from dcam_fast.explanation import Explanation
from dcam_fast.images import ImageSource
from dcam_fast.interruption import Cancellation, interruptible
from dcam_fast.many import ExplainRequest, RequestError, explained_in_order
from dcam_fast.models.adapter import DEFAULT_GENERATION, Adapter, Inputs
from dcam_fast.models.generation import Generation
from dcam_fast.models.given import AnswerLike
from dcam_fast.preparation import Preparation, check_options, name_of
from dcam_fast.session import Session, TargetsLike, checked_targets
from dcam_fast.streaming import Stream


class Explainer:
    """Explains the answers of one model.

    It holds the model. Calls do not depend on each other.

    Example:
        >>> from dcam_fast import Explainer, sample_image
        >>> explainer = Explainer.from_pretrained("tiny")
        >>> explanation = explainer.explain(sample_image(), targets=[0, 1])
        >>> explanation.maps.shape
        torch.Size([2, 16, 16])
    """

    def __init__(
        self,
        adapter: Adapter[Any],
        *,
        max_memory: int | None = None,
        compile: bool = False,
        deterministic: bool = False,
        encodings: int = 0,
    ) -> None:
        """An explainer of a loaded model.

        Args:
            adapter: of the model.
            max_memory: bytes of hidden states that a pass may keep. None: half of the free memory.
            compile: whether passes run through `torch.compile`.
            deterministic: whether passes use deterministic algorithms only.
            encodings: how many encoded images, each with its prompt, are kept for later calls about the same.

        Raises:
            TypeError, ValueError: for a resource of the wrong type or value; see `dcam_fast.attribution.Resources`.
        """
        self.adapter = adapter
        self.resources = Resources(max_memory, compile, deterministic)
        self._costs = CostModel()
        self._preparation = Preparation(adapter, self.resources, encodings)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] = "tiny",
        *,
        device: str | torch.device = "cpu",
        device_map: object = None,
        trust_remote_code: bool = False,
        dtype: torch.dtype | str | None = None,
        attention: str | None = None,
        answer_length: int | None = None,
        view: str | None = None,
        vision_tower: str | os.PathLike[str] | None = None,
        max_memory: int | None = None,
        compile: bool = False,
        deterministic: bool = False,
    ) -> Explainer:
        """An explainer of a model by name, folder or Hub id.

        Args:
            model: `"tiny"`, the embedded model, a folder with a checkpoint, or a Hub id such as `"owner/model"`, which
                is downloaded unless it is in the local cache.
            device: where the model and its passes run.
            device_map: as in transformers, instead of `device`; it must name one device.
            trust_remote_code: whether code that a checkpoint brings along may run.
            dtype: of the weights, a torch dtype or its name (None: the checkpoint's).
            attention: the topology, where a family offers several (None: the model's own).
            answer_length: tokens in an answer, where a family lets the caller choose (None: the family's default).
            view: the default view of the image, where a family has several (None: the family's default).
            vision_tower: folder or Hub id of the vision tower, for a family that loads one from elsewhere.
            max_memory: as in `Explainer`.
            compile: as in `Explainer`.
            deterministic: as in `Explainer`.

        Raises:
            AdapterError: for an unknown model, one that cannot be loaded, or an option that its family does not have;
                see `dcam_fast.models.load`.
            TypeError, ValueError: for an argument of the wrong type or value.
        """
        Resources(max_memory, compile, deterministic)  # checked before a model is loaded
        adapter = models.load(
            model,
            device=device,
            device_map=device_map,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            attention=attention,
            answer_length=answer_length,
            view=view,
            vision_tower=vision_tower,
        )
        return cls(adapter, max_memory=max_memory, compile=compile, deterministic=deterministic)

    @classmethod
    def from_model(
        cls,
        model: torch.nn.Module,
        processor: Any = None,
        *,
        attention: str | None = None,
        name: str | None = None,
        max_memory: int | None = None,
        compile: bool = False,
        deterministic: bool = False,
        **options: Any,
    ) -> Explainer:
        """An explainer of a model that is in memory. The model is not copied, and every call leaves it as it was.

        Args:
            model: of a known family, on one device, in float32 or bfloat16. It may be quantized, have LoRA adapters,
                and be wrapped by peft or `torch.compile`.
            processor: what the family encodes with: a tokenizer (LaViDa, LLaDA-V), the checkpoint's processor (Dimple,
                Dream-VL), a tokenizer and an image processor (DiffusionGemma), or None (the embedded model's own).
            attention: as in `from_pretrained`.
            name: shown in results (None: that of its checkpoint).
            max_memory: as in `Explainer`.
            compile: as in `Explainer`.
            deterministic: as in `Explainer`.
            options: others of the family: `answer_length`, `view`, `mask_token`, `threshold`.

        Raises:
            AdapterError: for a model, processor or option that cannot be used, with what to do.
            TypeError, ValueError: for an argument of the wrong type or value.

        Example:
            >>> from dcam_fast import Explainer, sample_image
            >>> model = Explainer.from_pretrained().adapter.model.train()  # or yours
            >>> explanation = Explainer.from_model(model).explain(sample_image(), targets=[0])
            >>> model.training
            True
        """
        Resources(max_memory, compile, deterministic)
        adapter = models.adapter_of(model, processor, name=name, attention=attention, **options)
        return cls(adapter, max_memory=max_memory, compile=compile, deterministic=deterministic)

    def explain(
        self,
        image: ImageSource,
        prompt: str | None = None,
        targets: TargetsLike = "content",
        *,
        answer: AnswerLike | None = None,
        method: str | AttributionMethod = "default",
        profile: str | RefineConfig | None = None,
        generation: Generation = DEFAULT_GENERATION,
        scores: bool = True,
        budget_ms: float | None = None,
        timeout: float | None = None,
        cancel: Cancellation | None = None,
    ) -> Explanation:
        """Answers `prompt` about `image`, unless another engine has, and explains words of the answer.

        Args:
            image: path, PIL image, array or tensor of any size and mode; see `dcam_fast.load_image`.
            prompt: the question (None: the model's default prompt, usually a request for a caption).
            targets: `"content"` (every content word), `"all"` (every word and sign), or words, phrases and token
                positions in a list, tuple, 1-D array, tensor or other ordered iterable. Case and the signs between
                words do not matter. A phrase has the mean map of its tokens. `"ring#2"` is the second ring. See
                `dcam_fast.words` for what a word is. A `dcam_fast.Contrast` compares a word with another one.
            answer: the answer, where another engine wrote it: its text, its token ids in a sequence, 1-D array or
                tensor, a `GivenAnswer` (ids with the steps that wrote them) or a `Trajectory`. Nothing is generated
                then. Ids may be those of the text, with or without its end token, or of the whole canvas. None: the
                model answers.
            method: a name of `dcam_fast.METHODS` (`"default"`, `"published"`, `"grad_cam"`, ...), a `GradientCAM` or
                any other `AttributionMethod`.
            profile: how maps are refined: `"default"`, `"unguided"`, `"released"`, `"paper"` or a `RefineConfig` (None:
                the method's profile).
            generation: how the answer is generated. Of a given answer only the seed matters, and only for a family
                without a mask token: it draws the noise that masks a token.
            scores: whether targets get the scores that take passes of the model: groundedness, the shares and the
                alternatives of `Target`.
            budget_ms: milliseconds that the whole call may take. The most exact way that fits is taken; see
                docs/production.md. None: no limit, and nothing is left out.
            timeout: seconds from the call after which it is interrupted (None: never).
            cancel: a `threading.Event`, or anything with `is_set()`, that interrupts the call once it is set.

        Returns:
            The answer, its tokens and a map for each target.

        Raises:
            ValueError: for an image, prompt, target, answer or option that cannot be used. Whatever can be checked
                before the model runs is checked before.
            TypeError: for an argument of the wrong type, before the model runs.
            FileNotFoundError: if `image` is a path that does not exist.
            BudgetError: if `budget_ms` is too small for every way to explain; a ValueError, before the model runs.
            DeadlineExceeded: after `timeout`.
            Cancelled: after `cancel` was set.
        """
        began, limits = time.perf_counter(), interruptible(timeout, cancel)
        with limits, computing(self.adapter, self.resources):
            check_options("explain", prompt, profile, generation, scores)
            requested = checked_targets(targets, "explain")
            request = ExplainRequest(image, prompt, answer, requested, generation)
            if budget_ms is not None:
                budget = Budget(
                    budget_ms, levels(method_for(self.adapter, method), scores, self.adapter), self._costs, began
                )
                budget.check(requested, generation if answer is None else None)
                return budget.explain(self._preparation.checked_session(request, method, profile, scores))
            session = self._preparation.checked_session(request, method, profile, scores)
            started = time.perf_counter()
            trajectory = session.answer()
            return session.explained(trajectory, {"generate": time.perf_counter() - started})

    def explain_many(
        self,
        requests: Iterable[ExplainRequest],
        *,
        method: str | AttributionMethod = "default",
        profile: str | RefineConfig | None = None,
        generation: Generation = DEFAULT_GENERATION,
        scores: bool = True,
    ) -> Generator[Explanation | RequestError]:
        """Explains many requests, in their order.

        What is wrong with a request is its result, a `RequestError`, and the next ones go on. A small model on a CPU
        works at several requests at once, one on each of torch's threads, and answers `TOGETHER` of them in one pass.
        It reads at most `TOGETHER * (threads + 1)` requests ahead of the caller, and memory does not grow with their
        number. Objectives and methods of the caller's are then called by several threads. Other models explain one
        request after another.

        Maps and scores are bitwise those of `explain` for the same answer. Answers that are generated together are
        the same, unless two tokens are nearly equally likely; see `Adapter.generate_many`. Closing or leaving the
        iterator stops the work.

        Args:
            requests: read as they are needed. What their iterator raises is raised after the results before it.
            method: as in `explain`.
            profile: as in `explain`.
            generation: of the requests that do not have another.
            scores: as in `explain`.

        Raises:
            TypeError, ValueError: for an option that no request can be explained with, before any work.

        Example:
            >>> from dcam_fast import Explainer, ExplainRequest, sample_image
            >>> explainer = Explainer.from_pretrained("tiny")
            >>> requests = [ExplainRequest(sample_image(), targets=[target]) for target in (0, "zebra")]
            >>> for result in explainer.explain_many(requests):
            ...     print(type(result).__name__)
            Explanation
            RequestError
        """
        method_for(self.adapter, method)
        check_options("explain_many", None, profile, generation, scores)
        if not isinstance(requests, Iterable):
            raise TypeError(f"explain_many: requests must be an iterable of ExplainRequest, got {requests!r}")

        def prepare(request: ExplainRequest) -> Session:
            if not isinstance(request, ExplainRequest):
                raise TypeError(f"explain_many: request must be an ExplainRequest, got {request!r}")
            own = request if request.generation is not None else replace(request, generation=generation)
            return self._preparation.checked_session(own, method, profile, scores)

        return explained_in_order(requests, prepare, self.adapter, self.resources)

    def stream(
        self,
        image: ImageSource,
        prompt: str | None = None,
        *,
        method: str | AttributionMethod = "default",
        profile: str | RefineConfig | None = None,
        generation: Generation = DEFAULT_GENERATION,
        timeout: float | None = None,
        cancel: Cancellation | None = None,
    ) -> Stream:
        """Answers `prompt` about `image` and explains each token at the denoising step that writes it.

        The result is an iterator of `Step`. After the last step, its `explanation()` covers the whole answer, which is
        the answer that `explain` would give. To stop earlier, leave the loop or call `close()`.

        Args:
            image: as in `explain`.
            prompt: as in `explain`.
            method: a name or `GradientCAM` as in `explain`. Its `state` becomes `"committed"`, the only state that
                exists while the answer is being written.
            profile: as in `explain`.
            generation: as in `explain`.
            timeout: as in `explain`. The seconds count from this call, also between the steps.
            cancel: as in `explain`.

        Raises:
            ValueError: as in `explain`, and if the model or the method does not support streaming.
            TypeError: as in `explain`.
            DeadlineExceeded, Cancelled: as in `explain`, also from the steps.
        """
        limits = interruptible(timeout, cancel, "stream")
        settings = method_for(self.adapter, method)
        check_options("stream", prompt, profile, generation)
        if not isinstance(settings, GradientCAM):
            raise ValueError(f"stream: method must be a GradientCAM or the name of one, got {method!r}")
        committed = replace(settings, state="committed")
        with limits, computing(self.adapter, self.resources):
            session = self._preparation.session(image, prompt, f"{name_of(method)}, streamed", committed, profile)
            return Stream(session, self.adapter.denoise(session.inputs, generation), limits)

    def encode(self, image: ImageSource, prompt: str | None = None) -> Inputs:
        """An image and a prompt as the model reads them; `explain` and `stream` begin with it.

        Args:
            image: as in `explain`.
            prompt: as in `explain`.

        Raises:
            ValueError: for an image or a prompt that the model cannot process.
        """
        check_text("Explainer.encode", "prompt", prompt)
        return self._preparation.encode(image, prompt)
