"""Structured logs through the standard library: each line is an event and its fields."""

import json
import logging
import secrets
import sys
import time
from typing import Any, TextIO

log = logging.getLogger("conveyor.errors")

# What every record has; all else came with `extra` and is a field of the event.
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def set_up(level: str, form: str, stream: TextIO | None = None) -> None:
    """Sends the records of this process to `stream`, stderr by default. `form` is `text` or `json`."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def report(error: BaseException) -> str:
    """Logs a failure that nobody foresaw and returns the id under which the log has it."""
    error_id = secrets.token_hex(8)
    log.error("unforeseen error", exc_info=error, extra={"error_id": error_id})
    return error_id


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _time(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03}Z"


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Time, level and event, then `key=value`; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        pairs = "".join(f" {name}={_quoted(value)}" for name, value in _fields(record).items())
        line = f"{_time(record)} {record.levelname.lower():7} {record.getMessage()}{pairs}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _quoted(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() and not set(' "=') & set(text) and text else json.dumps(text)
