"""Standby copies: what a takeover needs of a changelog is at hand before it is needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from streamer.codecs.messages import Prediction
from streamer.log.base import Reader, TopicSpec
from streamer.log.memory import MemoryLog
from streamer.records import NewRecord, TopicPartition
from streamer.testing.models import RunningSum
from streamer.testing.passing import PassingLog
from streamer.testing.serving import QUICK, Serving, event, options_of
from streamer.worker.standby import Standby

LOG = "changelog"
ZERO, ONE = TopicPartition(LOG, 0), TopicPartition(LOG, 1)


@asynccontextmanager
async def following() -> AsyncIterator[tuple[MemoryLog, Standby]]:
    async with MemoryLog() as log:
        await log.create_topics([TopicSpec(LOG, 2, compact=True)])
        standby = Standby(log, LOG)
        running = asyncio.create_task(standby.run())
        try:
            yield log, standby
        finally:
            running.cancel()
            await asyncio.wait([running])


async def until(log: MemoryLog, done: Callable[[], bool]) -> None:
    """The copies follow on the same loop: let them while waiting for a record that never comes."""
    async with asyncio.timeout(20), log.reader({ONE: 0}) as reader:
        while not done():
            await reader.read(timeout_s=0.01)


async def test_a_copy_holds_the_latest_record_of_each_key_and_none_that_a_tombstone_ended() -> None:
    async with following() as (log, standby):
        await log.append(LOG, 0, [NewRecord(b"a", b"1"), NewRecord(b"b", b"22"), NewRecord(b"a", b"333")])
        await log.append(LOG, 0, [NewRecord(b"b", None), NewRecord(b"c", b"4")])
        await until(log, lambda: standby.nbytes == 4)
        copy = standby.take_over(ZERO)
    assert copy is not None
    assert [(key, record.value) for key, record in copy.latest.items()] == [(b"a", b"333"), (b"c", b"4")]
    assert copy.position == 5


async def test_what_is_taken_over_is_followed_no_more_and_again_once_it_is_others() -> None:
    async with following() as (log, standby):
        await log.append(LOG, 0, [NewRecord(b"a", b"1")])
        await until(log, lambda: standby.nbytes == 1)
        assert standby.take_over(ZERO) is not None
        await log.append(LOG, 0, [NewRecord(b"a", b"22")])
        await log.append(LOG, 1, [NewRecord(b"x", b"333")])
        await until(log, lambda: standby.nbytes == 3)  # of the other partition alone
        standby.follow([ZERO])
        await until(log, lambda: standby.nbytes == 5)
        copy = standby.take_over(ZERO)
    assert copy is not None
    assert [record.value for record in copy.latest.values()] == [b"22"]


async def test_a_partition_that_is_taken_over_at_once_has_no_copy() -> None:
    async with following() as (_, standby):
        assert standby.take_over(ZERO) is None


class ReadFrom(PassingLog):
    """Notes where readers of the changelog begin."""

    def __init__(self, log: MemoryLog, changelog: str) -> None:
        super().__init__(log)
        self.begins: list[int] = []
        self._changelog = changelog

    def reader(self, start: Mapping[TopicPartition, int]) -> Reader:
        self.begins += [offset for partition, offset in start.items() if partition.topic == self._changelog]
        return super().reader(start)


async def test_a_worker_with_standby_copies_takes_over_without_reading_the_changelog_from_its_beginning() -> None:
    bench = Serving(MemoryLog(), RunningSum, options_of(commit=replace(QUICK, standby=True)))
    await bench.create_topics()
    await bench.feed([event("a", 1), event("a", 2)])
    waiting = ReadFrom(bench.log, bench.changelog)  # type: ignore[arg-type]
    async with bench.running() as first:
        await bench.until(first, lambda: first.status().lag_records == 0)
        async with bench.running(waiting) as second:
            gauge = second.metrics.gauge("streamer_standby_bytes", pipeline=second.name)
            await bench.until(second, lambda: gauge.value > 0)
            first.stop()
            await bench.until(second, lambda: second.status().partitions == 1)
            await bench.feed([event("a", 4)])
            await bench.until(second, lambda: second.status().records == 1 and second.status().lag_records == 0)
    sums = [m.body.outputs["y"] for m in await bench.said() if isinstance(m.body, Prediction) and m.body.outputs]
    assert sums == [[1.0], [3.0], [7.0]]
    assert waiting.begins[0] == 0
    assert all(begin > 0 for begin in waiting.begins[1:])
