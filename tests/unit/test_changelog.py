"""Reading changelogs: the latest of every key, through one reader for all partitions that are asked for at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamer.columns import RecordColumns
from streamer.errors import LogUnavailable
from streamer.log.base import DEFAULT_MAX_RECORDS, Reader, TopicSpec
from streamer.log.memory import MemoryLog
from streamer.records import NewRecord, Record, RecordBatch, TopicPartition
from streamer.worker.changelog import Changelogs, Latest, take

TOPIC = "changelog"
PARTITIONS = [TopicPartition(TOPIC, number) for number in range(4)]


class CountingLog(MemoryLog):
    """Counts its readers; they can be held back, or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.readers = 0
        self.begun, self.goes_on, self.fails = asyncio.Event(), asyncio.Event(), False
        self.goes_on.set()

    def reader(self, start: Mapping[TopicPartition, int]) -> Any:
        self.readers += 1
        return Held(super().reader(start), self)


class Held:
    def __init__(self, reader: Reader, log: CountingLog) -> None:
        self._reader = reader
        self._log = log

    async def __aenter__(self) -> Held:
        await self._reader.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._reader.__aexit__(None, None, None)

    async def read(self, *, max_records: int = DEFAULT_MAX_RECORDS, timeout_s: float = 0.0) -> list[RecordBatch]:
        self._log.begun.set()
        await self._log.goes_on.wait()
        if self._log.fails:
            raise LogUnavailable("gone")
        return await self._reader.read(max_records=1, timeout_s=timeout_s)

    def position(self, partition: TopicPartition) -> int:
        return self._reader.position(partition)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._reader.seek(partition, offset)


async def filled(log: MemoryLog) -> None:
    """Each partition holds two keys, one written twice, and one that was ended."""
    await log.create_topics([TopicSpec(TOPIC, len(PARTITIONS))])
    for number in range(len(PARTITIONS)):
        values = [(b"a", b"old"), (b"gone", b"x"), (b"b", b"%d" % number), (b"a", b"new"), (b"gone", None)]
        await log.append(TOPIC, number, [NewRecord(key, value) for key, value in values])


def told(latest: Latest) -> list[tuple[bytes, bytes | None]]:
    return [(key, record.value) for key, record in latest.items()]


def wanted(number: int) -> list[tuple[bytes, bytes | None]]:
    return [(b"b", b"%d" % number), (b"a", b"new")]


async def test_partitions_that_are_asked_for_at_once_share_a_reader_and_each_gets_its_own() -> None:
    async with CountingLog() as log:
        await filled(log)
        changelogs = Changelogs(log)
        found = await asyncio.gather(*(changelogs.read(partition) for partition in PARTITIONS))
        assert [told(latest) for latest in found] == [wanted(number) for number in range(4)]
        assert log.readers == 1
        assert told(await changelogs.read(PARTITIONS[2])) == wanted(2)
        assert log.readers == 2


async def test_who_waits_no_more_takes_nothing_from_the_others() -> None:
    async with CountingLog() as log:
        await filled(log)
        log.goes_on.clear()
        changelogs = Changelogs(log)
        reads = [asyncio.create_task(changelogs.read(partition)) for partition in PARTITIONS]
        await log.begun.wait()
        reads[0].cancel()
        log.goes_on.set()
        found = await asyncio.gather(*reads, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert [told(latest) for latest in found[1:] if isinstance(latest, dict)] == [wanted(n) for n in (1, 2, 3)]


async def test_a_log_that_is_away_is_told_to_all_who_wait_and_the_next_attempt_begins_anew() -> None:
    async with CountingLog() as log:
        await filled(log)
        log.fails = True
        changelogs = Changelogs(log)
        found = await asyncio.gather(*(changelogs.read(p) for p in PARTITIONS), return_exceptions=True)
        assert [type(one) for one in found] == [LogUnavailable] * 4
        log.fails = False
        assert told(await changelogs.read(PARTITIONS[1])) == wanted(1)


async def test_an_empty_changelog_holds_nothing() -> None:
    async with MemoryLog() as log:
        await log.create_topics([TopicSpec(TOPIC, 1)])
        assert await Changelogs(log).read(PARTITIONS[0]) == {}


def columns(records: list[tuple[bytes | None, bytes | None]]) -> RecordColumns:
    """Records as the Kafka log reads them."""
    raw, spans = b"", []
    for record in records:
        for part in record:
            begin = len(raw)
            raw += part or b""
            spans.append((begin, begin - 1 if part is None else len(raw)))
    places = np.array(spans, np.int64).reshape(-1, 2, 2).transpose(2, 1, 0)
    numbers = np.arange(len(records), dtype=np.int64)
    return RecordColumns(TOPIC, 0, numbers, numbers, raw, places[0], places[1])


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from([b"a", b"b", b"", None]), st.sampled_from([b"1", b"", None])), max_size=8),
        max_size=3,
    )
)
def test_records_in_columns_and_records_one_by_one_give_the_same(
    batches: list[list[tuple[bytes | None, bytes | None]]],
) -> None:
    by_column: Latest = {}
    one_by_one: Latest = {}
    for batch in batches:
        take(by_column, columns(batch))
        take(one_by_one, [Record(TOPIC, 0, n, n, key, value, ()) for n, (key, value) in enumerate(batch)])
    assert list(by_column.items()) == list(one_by_one.items())
