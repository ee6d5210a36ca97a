"""Structured logs: one JSON object per line on standard error."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

LOG = logging.getLogger("opensnac.serving")


class Lines(logging.Formatter):
    """Formats a record as a line of JSON: time, level, event, and the fields in `extra={"facts": ...}`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        } | getattr(record, "facts", {})
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def event(what: str, facts: dict[str, Any] | None = None, level: int = logging.INFO, exc_info: bool = False) -> None:
    """Log that something happened, with its facts."""
    LOG.log(level, what, extra={"facts": facts or {}}, exc_info=exc_info)


def begin() -> None:
    """Log everything in this process, the web server's messages included, in this format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # below that it logs every connection
