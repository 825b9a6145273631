"""`Preparation`: from the arguments of a call to its `Session`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dcam_fast.attribution import AttributionMethod, Resources
from dcam_fast.attribution.methods.presets import METHODS, method_for
from dcam_fast.checks import check_switch, check_text
from dcam_fast.config import RefineConfig
from dcam_fast.config import profile as profile_named
from dcam_fast.encodings import EncodingCache
from dcam_fast.images import ImageSource, load_image
from dcam_fast.many import ExplainRequest
from dcam_fast.models.adapter import DEFAULT_GENERATION, Adapter, Inputs
from dcam_fast.models.generation import Generation
from dcam_fast.models.given import given_trajectory
from dcam_fast.session import Session, check_contrasts, check_given, checked_targets


class Preparation:
    """Makes the sessions of one model: checks what is asked, and encodes image and prompt.

    Args:
        adapter: of the model.
        resources: what passes may use of the machine.
        encodings: how many encoded images, each with its prompt, are kept.
    """

    def __init__(self, adapter: Adapter[Any], resources: Resources, encodings: int) -> None:
        self._adapter, self._resources = adapter, resources
        self._encodings = EncodingCache(adapter, encodings)

    def encode(self, image: ImageSource, prompt: str | None) -> Inputs:
        """See `Explainer.encode`."""
        return self._encodings.encode(load_image(image), self._adapter.default_prompt if prompt is None else prompt)

    def checked_session(
        self, request: ExplainRequest, method: str | AttributionMethod, profile: str | RefineConfig | None, scores: bool
    ) -> Session:
        """The session of a request of `Explainer.explain`, all of whose arguments are checked. Raises as that does."""
        requested, settings = checked_targets(request.targets, "explain"), method_for(self._adapter, method)
        generation = DEFAULT_GENERATION if request.generation is None else request.generation
        check_options("explain", request.prompt, profile, generation, scores)
        check_contrasts(requested, self._adapter, settings, "explain")
        given = None
        if request.answer is not None:
            given = given_trajectory(request.answer, self._adapter, generation)
            check_given(requested, self._adapter, given, settings)
        session = self.session(request.image, request.prompt, name_of(method), settings, profile)
        return replace(session, targets=requested, generation=generation, given=given, scores=scores)

    def session(
        self,
        image: ImageSource,
        prompt: str | None,
        method_name: str,
        method: AttributionMethod,
        profile: str | RefineConfig | None,
    ) -> Session:
        """A session of options that are checked."""
        named = profile_named(profile) if isinstance(profile, str) else profile
        config = method.profile if named is None else named
        return Session(
            adapter=self._adapter,
            inputs=self.encode(image, prompt),
            method=method,
            method_name=method_name,
            config=config,
            profile_name=profile if isinstance(profile, str) else repr(config),
            resources=self._resources,
        )


def check_options(caller: str, prompt: object, profile: object, generation: object, scores: object = True) -> None:
    """Raises TypeError or ValueError for an option of the wrong type or value."""
    check_text(caller, "prompt", prompt)
    check_switch(caller, "scores", scores)
    if isinstance(profile, str):
        profile_named(profile)
    elif profile is not None and not isinstance(profile, RefineConfig):
        raise TypeError(f"{caller}: profile must be a name, a RefineConfig or None, got {profile!r}")
    if not isinstance(generation, Generation):
        raise TypeError(f"{caller}: generation must be a Generation, got {generation!r}")


def name_of(method: str | AttributionMethod) -> str:
    """The name of a method in `METHODS`, or `"custom"`."""
    if isinstance(method, str):
        return method
    return next((name for name, known in METHODS.items() if known == method), "custom")
