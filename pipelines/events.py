"""What happens, told as it happens on stderr: text for people, one JSON object a line where ``CAMBIUM_LOG=json``.

A line has ``at`` (UTC), ``event`` (such as ``epoch``, ``step``, ``input``), ``message`` and the event's own fields;
while a run is trained, or its model used, also ``run``. Children inherit the wish with the environment.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any

from shared_backbones.errors import BadRequest

WISH = "CAMBIUM_LOG"
FORMATS = ("text", "json")


def json_lines() -> bool:
    """Whether JSON lines were asked for. Raises BadRequest where the variable holds another word than text or json."""
    asked = os.environ.get(WISH) or "text"
    if asked not in FORMATS:
        raise BadRequest(f"the log format (--log, or {WISH}) is one of {', '.join(FORMATS)}; got {asked!r}")
    return asked == "json"


def line(event: str, message: str, **fields: Any) -> str:
    """One event as strict JSON without a line break: NaN and infinities as null, paths as text."""
    from .store import finite

    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    told = {"at": at, "event": event, "message": message, **fields}
    return json.dumps(finite(json.loads(json.dumps(told, default=str))), allow_nan=False)


def tell(event: str, message: str, *, quiet: bool = False, **fields: Any) -> None:
    """Say what happened. ``quiet`` hides the text, never a JSON line: whoever asked for lines reads all of them."""
    if json_lines():
        print(line(event, message, **fields), file=sys.stderr, flush=True)
    elif not quiet:
        print(message, file=sys.stderr, flush=True)


class JsonLines(logging.Formatter):
    """Log records as such lines; ``extra={"event": ..., "fields": {...}}`` names the event and its fields."""

    def __init__(self, **always: Any) -> None:
        super().__init__()
        self.always = always  # fields of every line, such as the run's id

    def format(self, record: logging.LogRecord) -> str:
        """The record's line."""
        own = {"level": record.levelname.lower(), **self.always, **getattr(record, "fields", {})}
        return line(getattr(record, "event", "log"), record.getMessage(), **own)
