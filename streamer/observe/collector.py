"""Python's cycle collector in a process that does nothing but serve.

A record in flight is some twenty objects and no cycle. With the default thresholds the collector walks all of them
again and again: under load this was a quarter of the throughput and half of the loop's lag (docs/log.md).
"""

from __future__ import annotations

import gc


def collect_rarely() -> None:
    """Leave what is there now out of all later collections, and make them rare. For processes, not for libraries."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
