"""How a process that does nothing but serve sets Python up. For processes, not for libraries.

A record in flight is some twenty objects and no cycle: with the default thresholds the cycle collector walks all of
them again and again, under load a quarter of the throughput and half of the loop's lag. And three threads share one
interpreter: a thread that wants it waits `switch interval` for it, 5 ms by default (docs/log.md).
"""

from __future__ import annotations

import ctypes
import gc
import sys

SWITCH_INTERVAL_S = 0.0002
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""
_KEPT_BYTES = 512 << 20
_LARGEST_ON_HEAP_BYTES = 32 << 20
"""The most that glibc takes for the second."""


def tune_for_serving() -> None:
    """Leave what is there now out of all later collections, make them rare, and hand the interpreter over sooner."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let the allocator keep what was freed: by default glibc gives tensors' memory back after every step.

    Fetching it again page by page was a quarter of a step of 1,000 small rows (docs/log.md). Elsewhere than on glibc
    nothing is changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_ON_HEAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
