"""The routes of explanations: made, streamed, and found again by their id."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import AsyncGenerator
from typing import Any, Final

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from PIL import Image

from dcam_fast.attribution.methods.presets import METHODS
from dcam_fast.config import PROFILES
from dcam_fast.contrast import Contrast
from dcam_fast.explanation import Explanation
from dcam_fast.models.given import AnswerLike, GivenAnswer
from dcam_fast.output.html import saved_policy
from dcam_fast.output.record import encode_boxes, encode_maps
from dcam_fast.service import answering
from dcam_fast.service.answering import ExplanationRequest
from dcam_fast.service.errors import ServiceError, dump, json_response
from dcam_fast.service.events import EventStream, event
from dcam_fast.service.requests import read_form, unless_gone
from dcam_fast.service.schemas import ContrastFields, ExplanationBody, ExplanationFields
from dcam_fast.service.state import Service
from dcam_fast.service.worker import Finished
from dcam_fast.session import TargetsLike
from dcam_fast.streaming import Step

JSON: Final = "application/json"
HTML: Final = "text/html"
PNG: Final = "image/png"
FORM: Final = "multipart/form-data"
SCHEMA: Final = {"requestBody": {"content": {JSON: {"schema": ExplanationBody.model_json_schema()}}, "required": True}}


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.post("/v1/explanations", openapi_extra=SCHEMA)
    async def explain(request: Request) -> Response:
        """Explains an answer: JSON, or with `Accept` the page (`text/html`) or the contact sheet (`image/png`)."""
        with service.place(request) as deadline:
            fields, asked = await read_request(service, request)
            job = service.worker.submit(lambda job: answering.explain(service.explainer, asked, job), deadline)
            explanation = await unless_gone(request.receive, job.result())
            identifier = service.keep(explanation, asked.method)
            return await _represented(service, explanation, identifier, fields, request.headers.get("accept", ""))

    @routes.post("/v1/explanations/stream", openapi_extra=SCHEMA)
    async def stream(request: Request) -> Response:
        """Explains an answer while it is written: an event for each denoising step, the explanation last."""
        with contextlib.ExitStack() as stack:
            deadline = stack.enter_context(service.place(request))
            fields, asked = await read_request(service, request)
            _check_streamed(asked)
            job = service.worker.submit(lambda job: answering.stream(service.explainer, asked, job), deadline)
            stack.callback(job.leave)
            events = job.events()
            first = await unless_gone(request.receive, anext(events))
            lines = _lines(service, first, events, fields)
            settings = service.settings
            return EventStream(lines, stack.pop_all().close, settings.ping_seconds, settings.send_seconds)

    @routes.get("/v1/runs/{identifier}")
    async def run(identifier: str) -> Response:
        """An explanation that was made before."""
        found = _found(service, identifier)
        return json_response(await service.aside(service.record, found, identifier))

    @routes.get("/v1/runs/{identifier}/page")
    async def page(identifier: str) -> Response:
        """Its page, which works without this service."""
        found = _found(service, identifier)
        return _page(await service.aside(found.to_html), {})

    @routes.get("/v1/runs/{identifier}/maps.npz")
    async def arrays(identifier: str) -> Response:
        """Its arrays, as `Explanation.save` writes them."""
        found = _found(service, identifier)
        headers = {"Content-Disposition": 'attachment; filename="maps.npz"'}
        return Response(await service.aside(_npz, found), 200, headers, "application/octet-stream")

    @routes.get("/v1/runs/{identifier}/image.png")
    async def image(identifier: str) -> Response:
        """Its image."""
        found = _found(service, identifier)
        return Response(await service.aside(_png, Image.fromarray(found.image)), 200, None, PNG)

    return routes


async def read_request(service: Service, request: Request) -> tuple[ExplanationFields, ExplanationRequest]:
    """The fields of a request, and the arguments that they stand for; the image is decoded."""
    body = await service.read(request)
    kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    upload = None
    if kind == FORM:
        values, upload = await service.aside(read_form, request.headers, body)
        if upload is not None:
            values["image"] = ""
        body = json.dumps(values).encode()
    elif kind != JSON:
        raise ServiceError(400, "unknown_content_type", f"service: Content-Type must be {JSON} or {FORM}, got another")
    fields = await service.aside(ExplanationBody.model_validate_json, body)
    check_names(fields)
    service.worker.check_budget(fields.budget_ms)
    image = await service.aside(service.decode, fields.image if upload is None else upload)
    return fields, ExplanationRequest(
        image=image,
        prompt=fields.prompt,
        answer=_answer_of(fields),
        targets=targets_of(fields),
        method=fields.method,
        profile=fields.profile,
        generation=fields.generation.generation(),
        scores=fields.scores,
        budget_ms=fields.budget_ms,
    )


def _answer_of(fields: ExplanationBody) -> AnswerLike | None:
    """The answer that a request gives, None if the model shall answer.

    Raises:
        ServiceError: if it gives two, or steps without tokens.
    """
    if fields.tokens is None:
        if fields.steps is not None:
            raise ServiceError(422, "invalid_field", "service: steps must be those of tokens, got no tokens", "steps")
        return fields.answer
    if fields.answer is not None:
        raise ServiceError(422, "invalid_field", "service: answer must be text or tokens, got both", "answer")
    return GivenAnswer(tuple(fields.tokens), None if fields.steps is None else tuple(fields.steps))


def _check_streamed(asked: ExplanationRequest) -> None:
    """Raises ServiceError for what only an answer that is complete can have."""
    for param, value in (("answer", asked.answer), ("budget_ms", asked.budget_ms)):
        if value is not None:
            raise ServiceError(422, "invalid_value", f"service: {param} must be absent in a stream, got one", param)


def targets_of(fields: ExplanationFields) -> TargetsLike:
    """The targets of a request."""
    if isinstance(fields.targets, str):
        return fields.targets
    return [Contrast(item.word, item.instead) if isinstance(item, ContrastFields) else item for item in fields.targets]


def check_names(fields: ExplanationFields) -> None:
    """Raises ServiceError for an unknown method or profile."""
    for param, known, name in (("method", METHODS, fields.method), ("profile", PROFILES, fields.profile)):
        if name is not None and name not in known:
            message = f"service: {param} must be one of {', '.join(known)}, got {name!r}"
            raise ServiceError(422, "invalid_value", message, param)


async def _represented(
    service: Service, explanation: Explanation, identifier: str, fields: ExplanationFields, accept: str
) -> Response:
    """The explanation in the first known format of an `Accept` header."""
    headers = {"Content-Location": f"/v1/runs/{identifier}"}
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    kind = next((kind for kind in kinds if kind in (JSON, HTML, PNG)), JSON)
    if kind == HTML:
        return _page(await service.aside(explanation.to_html), headers)
    if kind == PNG:
        return Response(await service.aside(_sheet, explanation), 200, headers, PNG)
    text = await service.aside(_json, service, explanation, identifier, fields.raw_maps)
    return Response(text, 200, headers, JSON)


def _page(text: str, headers: dict[str, str]) -> Response:
    """A saved page. It has its script in it, and in a sandbox it can reach nothing of this service."""
    policy = f"{saved_policy()}; frame-ancestors 'none'; sandbox allow-scripts allow-downloads"
    return Response(text, 200, {**headers, "Content-Security-Policy": policy}, HTML)


async def _lines(
    service: Service, first: object, events: AsyncGenerator[object, None], fields: ExplanationFields
) -> AsyncGenerator[bytes, None]:
    """The events of a stream as lines: steps, and the explanation or an error."""
    number, current = 0, first
    try:
        while isinstance(current, Step):
            yield event(await service.aside(_step, current), "step", number)
            current = await anext(events)
            number += 1
        assert isinstance(current, Finished)
        explanation = current.result
        assert isinstance(explanation, Explanation)
        identifier = service.keep(explanation, fields.method)
        text = await service.aside(_json, service, explanation, identifier, fields.raw_maps)
        yield event(text, "explanation", number)
    except ServiceError as error:
        yield event(dump(error.body()), "error", number)
    finally:
        await events.aclose()


def _step(step: Step) -> str:
    return dump(
        {
            "index": step.index,
            "text": step.text,
            "canvas": [{"text": text} for text in step.canvas],
            "tokens": [
                {"position": token.position, "id": token.id, "text": token.text, "step": token.step}
                for token in step.tokens
            ],
            "maps": encode_maps(step.maps),
            "boxes": encode_boxes(step.boxes),
            "seconds": step.seconds,
        }
    )


def _json(service: Service, explanation: Explanation, identifier: str, raw_maps: bool) -> str:
    return dump(service.record(explanation, identifier, raw_maps=raw_maps))


def _found(service: Service, identifier: str) -> Explanation:
    found = service.runs.get(identifier)
    if found is None:
        raise ServiceError(404, "run_not_found", "service: run must be one that is kept, got another id", "id")
    return found


def _sheet(explanation: Explanation) -> bytes:
    return _png(explanation.contact_sheet())


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def _npz(explanation: Explanation) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: getattr(explanation, name).numpy() for name in ("maps", "raw_maps", "boxes")}
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
