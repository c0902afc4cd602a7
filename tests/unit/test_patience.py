"""Waiting for a log that is away, and for a broker that does not know its topics yet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from streamer.errors import LogUnavailable, TopicMissing
from streamer.worker.patience import patiently


def failing(*errors: Exception) -> Callable[[], Awaitable[str]]:
    """Raises these in turns, then works."""
    left = list(errors)

    async def attempt() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return attempt


async def test_a_log_that_is_away_is_tried_again() -> None:
    assert await patiently("try", failing(LogUnavailable("away")), 60.0) == "done"


async def test_a_log_that_stays_away_is_given_up() -> None:
    with pytest.raises(LogUnavailable, match="away"):
        await patiently("try", failing(LogUnavailable("away")), -1.0)


async def test_a_topic_that_was_there_may_be_missing_while_a_broker_starts() -> None:
    missing = TopicMissing("no topic predictions"), LogUnavailable("away"), TopicMissing("no topic predictions")
    assert await patiently("try", failing(*missing), 60.0, missing_s=60.0) == "done"


async def test_a_topic_that_stays_missing_is_said_to_be_missing() -> None:
    with pytest.raises(TopicMissing, match="no topic predictions"):
        await patiently("try", failing(TopicMissing("no topic predictions")), 60.0, missing_s=-1.0)


async def test_who_is_to_stop_waits_no_longer() -> None:
    stopping = asyncio.Event()
    stopping.set()
    with pytest.raises(LogUnavailable, match="away"):
        await patiently("try", failing(LogUnavailable("away")), 60.0, stopping)
