"""The wall clock of worker processes, put forward and back by hours while they serve.

The offset lies in a file that the processes map into memory. What is shifted is what Python reads: `time.time` and
`time.time_ns`; nothing of the product is touched.
"""

from __future__ import annotations

import mmap
import time
from pathlib import Path


class Shift:
    """How many seconds the clock is off. path: of the file that says it. new: it is right at first."""

    def __init__(self, path: Path, *, new: bool = False) -> None:
        self.path = path
        if new:
            path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._cell = memoryview(mmap.mmap(file.fileno(), 0)).cast("d")

    @property
    def seconds(self) -> float:
        return float(self._cell[0])

    def to(self, seconds: float) -> None:
        """The clock jumps."""
        self._cell[0] = seconds


def follow(path: Path) -> None:
    """From now on this process reads a clock that is off by what lies there."""
    shift, right, right_ns = Shift(path), time.time, time.time_ns
    time.time = lambda: right() + shift.seconds
    time.time_ns = lambda: right_ns() + int(shift.seconds * 1e9)
