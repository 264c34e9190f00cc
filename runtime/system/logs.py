"""The program's one logger: on standard error, as text or as JSON lines, without credentials."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Literal, TextIO

from foldcam.runtime.system.redaction import redacted
from foldcam.runtime.system.text import printable

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

NAME = "foldcam"
log = logging.getLogger(NAME)
"""For every module: `log.warning("camera %s is gone", name, extra={"data": {"camera": 0}})`.

`data` is a dictionary of JSON values; text shows the message alone.
"""


class TextFormatter(logging.Formatter):
    """`2026-11-26 21:59:14 warning: camera 0 is gone`, on one line, local time."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        return f"{when} {record.levelname.lower()}: {_message(record)}"


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `time` (UTC), `level`, `message`, and the fields of `data`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        milliseconds = int(record.created * 1e3) % 1000
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        document = {
            "time": f"{stamp}.{milliseconds:03d}Z",
            "level": record.levelname.lower(),
            "message": _message(record),
        }
        data = getattr(record, "data", None)
        if isinstance(data, dict):
            # What is always there cannot be taken by a field of the same name.
            document = {**_clean(data), **document}
        return json.dumps(document)


def configure(
    format: LogFormat = "text", level: LogLevel = "info", stream: TextIO | None = None
) -> None:
    """Say where log lines go and how they look; a second call replaces the first."""
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    for old in list(log.handlers):
        log.removeHandler(old)
    log.addHandler(handler)
    log.setLevel(level.upper())
    log.propagate = False
    # A full disk or a closed terminal behind standard error must not end a run.
    logging.raiseExceptions = False


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        text = f"{text}: {type(error).__name__}: {error}"
    return printable(redacted(text))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {str(key): _clean(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(inner) for inner in value]
    return value if isinstance(value, (int, float, bool)) or value is None else redacted(str(value))
