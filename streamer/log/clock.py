"""The wall clock of logs. Everything that reads it can be given another."""

from __future__ import annotations

import time


def wall_clock_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
