"""Errors of a service, in the shape that clients of OpenAI's API know."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

import torch
from fastapi.responses import Response
from pydantic import ValidationError

from dcam_fast.interruption import Cancelled

TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
}
MAX_QUOTED: Final = 1000  # characters of a message or parameter: both may quote the request
GONE: Final = 499  # for logs and metrics: the client went away before its answer
# How the package says that an argument is wrong: "<caller>: <argument> must be <need>, got <value>".
ARGUMENT: Final = re.compile(r"\w[\w.]*: (?P<param>\w+) must be ")


class ServiceError(Exception):
    """What a request is answered with instead of its result.

    Attributes:
        status: of HTTP.
        message: for people; it may quote the request, so it is not logged.
        param: the field of the request that is wrong, if one is.
        code: for programs.
        headers: of the answer.
    """

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = _quoted(message)
        self.param = None if param is None else _quoted(param)
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The answer as JSON values."""
        kind = TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The answer."""
        return json_response(self.body(), self.status, self.headers)


def _quoted(text: str) -> str:
    """A text that can be sent: not too long, and without halves of characters, which a form can have."""
    short = text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}..."
    return short.encode(errors="replace").decode()


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON values as an answer."""
    return Response(dump(value), status, headers, "application/json")


def dump(value: object) -> str:
    """JSON text on one line. NaN and infinity, which JSON does not have, become null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def busy(seconds: float) -> ServiceError:
    """The queue is full; `seconds` is when to come again."""
    return ServiceError(
        429, "queue_full", "service: queue must have a free place, got a full queue", None, again(seconds)
    )


def stopping() -> ServiceError:
    """The service is about to end."""
    return ServiceError(
        503, "shutting_down", "service: must be running, got a request while it shuts down", None, again(1)
    )


def too_late() -> ServiceError:
    """The deadline has passed."""
    return ServiceError(504, "deadline_exceeded", "service: the deadline passed before the answer was complete")


def again(seconds: float) -> dict[str, str]:
    """The header that says when to come again."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def invalid_fields(error: ValidationError) -> ServiceError:
    """A request whose fields do not fit the schema: 400 if it is no JSON at all, else 422."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = ".".join(map(str, first["loc"])) or None
    if first["type"] == "json_invalid":
        return ServiceError(400, "invalid_json", f"service: body must be JSON: {first['msg']}")
    return ServiceError(422, "invalid_field", f"service: {param or 'body'}: {first['msg']}", param)


def as_service_error(error: BaseException) -> ServiceError:
    """What a request is answered with after an exception."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, ValidationError):
        return invalid_fields(error)
    if isinstance(error, TimeoutError):
        return too_late()
    if isinstance(error, Cancelled):  # its client is gone, or the service ends
        return stopping()
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return ServiceError(503, "out_of_memory", "service: memory must suffice, got too little", None, again(1))
    argument = ARGUMENT.match(str(error)) if isinstance(error, ValueError | TypeError) else None
    if argument:
        return ServiceError(422, "invalid_value", str(error), argument["param"])
    return ServiceError(500, "internal_error", "service: an unexpected error; the log has the request's id")
