"""Structured logs on standard error: one line of `time level logger message key=value`. Never what was said.

What streams contain (words, sensor values, payloads) goes to topics and taps only; logs name coordinates and counts.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import TextIO

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LineFormatter(logging.Formatter):
    """One line a message; what was given as `extra` follows as key=value, quoted where it needs to be."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        head = f"{clock}.{int(record.msecs):03d}Z {record.levelname.lower():7} {record.name}: {record.getMessage()}"
        extra: Mapping[str, object] = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        line = " ".join([head, *(f"{name}={_quoted(value)}" for name, value in extra.items())])
        line = line.replace("\n", "\\n")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def log_to_stderr(level: int, stream: TextIO | None = None) -> None:
    """Send everything of `level` and above to standard error; libraries speak from warning upwards only."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))
    for ours in ("streamer", "models"):
        logging.getLogger(ours).setLevel(level)


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=\n\r\t') else text
