"""Waiting for a log that is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from streamer.errors import LogUnavailable, TopicMissing

T = TypeVar("T")
logger = logging.getLogger(__name__)
RETRY_S = 0.25
MISSING_S = 15.0
"""How long a broker that has just started may not know its topics."""


async def patiently(
    what: str,
    attempt: Callable[[], Awaitable[T]],
    wait_s: float,
    stopping: asyncio.Event | None = None,
    *,
    missing_s: float = 0.0,
) -> T:
    """Try until it works, for `wait_s` at most, or until `stopping`. Raises LogUnavailable after that.

    missing_s: how long a topic may be missing, for those that were there: a broker that has just started does not know
    its topics yet, and says so. Raises TopicMissing after that.
    """
    deadline = time.monotonic() + wait_s
    missing_since: float | None = None
    while True:
        try:
            return await attempt()
        except (LogUnavailable, TopicMissing) as error:
            now = time.monotonic()
            missing_since = (missing_since or now) if isinstance(error, TopicMissing) else None
            last = deadline if missing_since is None else missing_since + missing_s
            if now > last or (stopping is not None and stopping.is_set()):
                raise
            logger.warning("cannot %s yet, trying again: %s", what, error)
            await asyncio.sleep(RETRY_S)
