"""Logs as JSON, one object a line, with the id of the request."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


class JsonFormatter(logging.Formatter):
    """A record as a JSON object. Of an exception it has the type and the places, not the message: that may quote a
    prompt."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record; `extra={"fields": {...}}` adds fields."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if identifier := request_id.get():
            line["request_id"] = identifier
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1]:
            frames = traceback.extract_tb(record.exc_info[2])
            line["exception"] = type(record.exc_info[1]).__name__
            line["frames"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return json.dumps(line)


def configure() -> None:
    """Sends the logs of this process to stderr as JSON lines, from INFO on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every damaged body
