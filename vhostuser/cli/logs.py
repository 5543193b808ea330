"""How log records become lines on stderr: text for a person, or JSON for a collector.

A record may carry a device's name: `log.info(..., extra={"device": "vm1"})`, or a LoggerAdapter. JSON lines
have every other `extra` key too. A line is one line whatever is in it: names and paths come from outside.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))}


def set_up(level: str, form: str, stream: TextIO | None = None) -> None:
    """Sends all logging of the process to `stream` (stderr): `level` and above, as "text" or "json"."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:34:56.789 info vm1: front-end connected`, then a traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        device = getattr(record, "device", None)
        source = f" {device}" if device else ""
        seconds = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        message = record.getMessage().translate(_CONTROL)
        line = f"{seconds}.{int(record.msecs):03d} {record.levelname.lower()}{source}: {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One object a line: time (UTC), level, logger, message, then what the record was given."""

    def format(self, record: logging.LogRecord) -> str:
        import msgspec

        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry, enc_hook=str).decode()
