"""Who is still alive, without a common clock: by silence seen on one's own monotonic clock, or by a process that ended.

A member raises a heartbeat number. Whoever looks measures for how long the number stayed the same; wall clocks, which
jump, and their differences between processes play no part. A process on this machine that no longer exists is dead at
once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


class SilenceWatch:
    """For how long each of several values has stayed the same, as far as this process has seen.

    now_s: a monotonic clock. max_step_s: the most that one look can add, so that a time in which this process itself
    was stopped (SIGSTOP, a suspended laptop, a blocked loop) is not held against the others.
    """

    def __init__(self, now_s: Callable[[], float], max_step_s: float) -> None:
        self._now_s = now_s
        self._max_step_s = max_step_s
        self._last_look_s = now_s()
        self._seen: dict[Hashable, tuple[Hashable, float]] = {}

    def look(self, values: Mapping[K, Hashable]) -> dict[K, float]:
        """Seconds for which each value has been unchanged; keys not in `values` are forgotten."""
        now_s = self._now_s()
        step_s = min(now_s - self._last_look_s, self._max_step_s)
        self._last_look_s = now_s
        silent: dict[K, float] = {}
        for key, value in values.items():
            before, silent_s = self._seen.get(key, (None, 0.0))
            silent[key] = silent_s + step_s if before == value else 0.0
        self._seen = {key: (values[key], silent_s) for key, silent_s in silent.items()}
        return silent


def this_process() -> str:
    """This process by machine start, process namespace, id and start time; empty where the system does not tell."""
    try:
        return f"{_place()} {os.getpid()} {_start_ticks(os.getpid())}"
    except OSError:
        return ""


def has_ended(process: str) -> bool:
    """Whether the process that `this_process()` named has certainly ended; False where that cannot be known."""
    fields = process.split()
    try:
        if len(fields) != 4 or f"{fields[0]} {fields[1]}" != _place():
            # Another machine start means that it has ended; another namespace on the same one cannot be looked into.
            return len(fields) == 4 and fields[0] != _place().split()[0]
    except OSError:
        return False
    try:
        return _start_ticks(int(fields[2])) != fields[3]
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:
        return False


def _place() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def _start_ticks(pid: int) -> str:
    """The start time of a process; of one that has died but was not yet waited for, a word. See proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return "ended" if fields[0] in "ZX" else fields[19]
