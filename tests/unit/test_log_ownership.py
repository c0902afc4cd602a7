"""A commit belongs to the ownership under which its content was made, not to whoever owns the partition by then."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streamer.errors import Fenced
from streamer.log.base import Assigned, Commit, Committed, Consumer, Log, TopicSpec
from streamer.log.memory import MemoryLog
from streamer.log.sqlite import SqliteLog
from streamer.records import TopicPartition

PLACES = [TopicPartition("in", 0), TopicPartition("in", 1)]


@pytest.fixture(params=["memory", "sqlite"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Log]:
    """A log that waits for a silent owner for hardly any time."""
    made: Log = MemoryLog(settle_timeout_s=0.01)
    if request.param == "sqlite":
        made = SqliteLog(tmp_path / "log.db", settle_timeout_s=0.01)
    async with made:
        await made.create_topics([TopicSpec("in", len(PLACES))])
        yield made


async def assigned(consumer: Consumer) -> frozenset[TopicPartition]:
    """Read until partitions come."""
    while True:
        for event in await consumer.read(timeout_s=1.0):
            if isinstance(event, Assigned):
                return event.partitions


async def test_an_owner_that_slept_while_its_partition_went_away_and_came_back_commits_nothing_of_before(
    log: Log,
) -> None:
    async with log.consumer("group", ["in"]) as sleeping:
        assert await assigned(sleeping) == frozenset(PLACES)
        async with log.consumer("group", ["in"]) as passing:
            (moved,) = await assigned(passing)
            await passing.commit([Commit(moved, 7)])
        with pytest.raises(Fenced):  # its again, but it has not read so
            await sleeping.commit([Commit(moved, 3)])
        assert await log.committed("group", [moved]) == {moved: Committed(7, "")}
