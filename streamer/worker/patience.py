"""Waiting for a log that is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from streamer.errors import LogUnavailable

T = TypeVar("T")
logger = logging.getLogger(__name__)
RETRY_S = 0.25


async def patiently(
    what: str, attempt: Callable[[], Awaitable[T]], wait_s: float, stopping: asyncio.Event | None = None
) -> T:
    """Try until it works, for `wait_s` at most, or until `stopping`. Raises LogUnavailable after that."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return await attempt()
        except LogUnavailable as error:
            if time.monotonic() > deadline or (stopping is not None and stopping.is_set()):
                raise
            logger.warning("cannot %s yet, trying again: %s", what, error)
            await asyncio.sleep(RETRY_S)
