"""`/v1/models` and `/v1/chat/completions`, which clients of OpenAI's API can use.

A diffusion model writes out of order. A streamed answer goes out from left to right, as its beginning is complete.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from dcam_fast.explanation import Explanation
from dcam_fast.models.generation import Generation
from dcam_fast.service import answering
from dcam_fast.service.answering import ExplanationRequest, WrittenAnswer
from dcam_fast.service.errors import ServiceError, dump, json_response
from dcam_fast.service.events import EventStream, event
from dcam_fast.service.explanations import check_names, targets_of
from dcam_fast.service.requests import unless_gone
from dcam_fast.service.schemas import ChatBody, ImagePart
from dcam_fast.service.state import Service
from dcam_fast.service.worker import Finished, Job

BROKEN: Final = "\ufffd"  # a character whose last bytes are still to come
SCHEMA: Final = {
    "requestBody": {"content": {"application/json": {"schema": ChatBody.model_json_schema()}}, "required": True}
}


@dataclass(frozen=True)
class Completion:
    """An answer and, if it was asked for, its explanation.

    Attributes:
        written: the answer.
        explanation: of it.
    """

    written: WrittenAnswer
    explanation: Explanation | None


@dataclass
class Chat:
    """One request to complete a chat, and what has been sent of its answer.

    Attributes:
        body: its fields.
        service: that answers it.
        identifier: of the completion.
        created: seconds since 1970.
        sent: text that has been streamed.
    """

    body: ChatBody
    service: Service
    identifier: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    sent: str = ""

    @property
    def limit(self) -> int | None:
        """The most tokens of the answer."""
        limits = [n for n in (self.body.max_tokens, self.body.max_completion_tokens) if n is not None]
        return min(limits, default=None)

    @property
    def stops(self) -> Sequence[str]:
        """Texts that end the answer."""
        stop = self.body.stop
        return [text for text in ([stop] if isinstance(stop, str) else stop or []) if text]

    def text(self, written: WrittenAnswer) -> tuple[str, str]:
        """The answer within the limits of the request, and why it ends there."""
        text, reason = written.text, "stop" if written.is_complete else "length"
        if self.limit is not None and written.length > self.limit:
            text = answering.first_tokens(self.service.explainer.adapter, written, self.limit)
            reason = "length"
        stopped = answering.cut_at(text, self.stops)
        return (text, reason) if stopped == text else (stopped, "stop")

    def usage(self, written: WrittenAnswer) -> dict[str, int]:
        """How many tokens were read and written."""
        prompt, answer = written.prompt_tokens, written.length
        if self.limit is not None:
            answer = min(answer, self.limit)
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}

    def delta(self, written: WrittenAnswer) -> str:
        """What can be sent of an answer that is still being written, after what was sent."""
        text, _ = self.text(written)
        held = max(map(len, self.stops), default=1) - 1  # the beginning of a stop is not sent
        text = text[: len(text) - held].rstrip(BROKEN)
        return self.rest(text) if text.startswith(self.sent) else ""

    def rest(self, text: str) -> str:
        """The part of a text that has not been sent; it counts as sent from now on.

        Raises:
            ServiceError: if the text begins otherwise than what was sent.
        """
        if not text.startswith(self.sent):
            raise ServiceError(500, "answer_changed", "service: answer must begin as streamed, got another beginning")
        new = text[len(self.sent) :]
        self.sent += new
        return new

    def chunk(self, delta: dict[str, str] | None, reason: str | None = None, **more: Any) -> bytes:
        """An event of the stream; without a delta it has no choices."""
        choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]
        return event(dump({**self._head("chat.completion.chunk"), "choices": choices, **more}))

    def completion(self, done: Completion) -> dict[str, Any]:
        """The whole answer as JSON values."""
        text, reason = self.text(done.written)
        message = {"role": "assistant", "content": text, "refusal": None}
        return {
            **self._head("chat.completion"),
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
            "usage": self.usage(done.written),
            **self.explained(done),
        }

    def explained(self, done: Completion) -> dict[str, Any]:
        """The explanation as the service's own key, if one was asked for."""
        if done.explanation is None or self.body.explain is None:
            return {}
        fields = self.body.explain
        identifier = self.service.keep(done.explanation, fields.method)
        return {"explanation": self.service.record(done.explanation, identifier, raw_maps=fields.raw_maps)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.identifier, "object": kind, "created": self.created, "model": self.body.model}


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter()
    started = int(time.time())

    @routes.get("/v1/models")
    async def models() -> Response:
        """The model that answers."""
        model = {"id": service.model, "object": "model", "created": started, "owned_by": "dcam_fast"}
        return json_response({"object": "list", "data": [model]})

    @routes.get("/v1/models/{model:path}")
    async def model(model: str) -> Response:
        """The same, by its name."""
        _check_model(service, model)
        return json_response({"id": model, "object": "model", "created": started, "owned_by": "dcam_fast"})

    @routes.post("/v1/chat/completions", openapi_extra=SCHEMA)
    async def complete(request: Request) -> Response:
        """Answers a question about an image; with `explain` the answer has an explanation."""
        with contextlib.ExitStack() as stack:
            deadline = stack.enter_context(service.place(request))
            settings = service.settings
            body = await service.aside(ChatBody.model_validate_json, await service.read(request))
            asked = await _arguments(service, body)
            chat = Chat(body, service)
            job = service.worker.submit(lambda job: _work(service, asked, job, body), deadline)
            stack.callback(job.leave)
            if not body.stream:
                done = await unless_gone(request.receive, job.result())
                return Response(await service.aside(lambda: dump(chat.completion(done))), 200, None, "application/json")
            events = job.events()
            first = await unless_gone(request.receive, anext(events))
            lines = _chunks(chat, first, events)
            return EventStream(lines, stack.pop_all().close, settings.ping_seconds, settings.send_seconds)

    return routes


def _check_model(service: Service, model: str) -> None:
    if model != service.model:
        raise ServiceError(404, "model_not_found", f"service: model must be {service.model!r}, got another", "model")


async def _arguments(service: Service, body: ChatBody) -> ExplanationRequest:
    """What the model is asked."""
    _check_model(service, body.model)
    parts = body.messages[0].content
    pictures = [part.image_url.url for part in parts if isinstance(part, ImagePart)]
    if len(pictures) != 1:
        message = f"service: messages must be one question with one image, got {len(pictures)} images"
        raise ServiceError(422, "invalid_field", message, "messages")
    prompt = "\n".join(part.text for part in parts if not isinstance(part, ImagePart))
    generation = Generation(temperature=body.temperature, seed=body.seed)
    arguments: dict[str, Any] = {}
    if body.explain is not None:
        check_names(body.explain)
        service.worker.check_budget(body.explain.budget_ms)
        arguments = body.explain.model_dump(include={"method", "profile", "scores", "budget_ms"})
        arguments["targets"] = targets_of(body.explain)
    image = await service.aside(service.decode, pictures[0])
    return ExplanationRequest(image, prompt or None, generation=generation, **arguments)


def _work(service: Service, asked: ExplanationRequest, job: Job, body: ChatBody) -> Completion:
    written = answering.answer(service.explainer, asked, job)
    service.metrics.generate_seconds.observe(written.seconds)
    if body.explain is None:
        return Completion(written, None)
    return Completion(written, answering.explain(service.explainer, replace(asked, answer=written.trajectory), job))


async def _chunks(chat: Chat, first: object, events: AsyncGenerator[object, None]) -> AsyncGenerator[bytes, None]:
    """The events of a streamed answer."""
    keeps = answering.writes_for_good(chat.service.explainer.adapter)
    try:
        yield chat.chunk({"role": "assistant", "content": ""})
        current = first
        while isinstance(current, WrittenAnswer):
            if keeps and (new := chat.delta(current)):
                yield chat.chunk({"content": new})
            current = await anext(events)
        assert isinstance(current, Finished)
        done = current.result
        assert isinstance(done, Completion)
        text, reason = chat.text(done.written)
        if new := chat.rest(text):
            yield chat.chunk({"content": new})
        yield chat.chunk({}, reason)
        if chat.body.explain is not None:
            yield await chat.service.aside(lambda: chat.chunk(None, **chat.explained(done)))
        if chat.body.stream_options is not None and chat.body.stream_options.include_usage:
            yield chat.chunk(None, usage=chat.usage(done.written))
        yield event("[DONE]")
    except ServiceError as error:
        yield event(dump(error.body()))
    finally:
        await events.aclose()
