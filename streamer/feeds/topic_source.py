"""The records of a topic or of a part of it, partitions merged by time. In no group: nothing is committed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field

from streamer.errors import TopicMissing
from streamer.log.base import Log, TopicInfo
from streamer.records import Record, TopicPartition

_BATCH = 512
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a topic: [begin, end) by offset in every partition, or by record time; None is open.

    follow: what comes later too, for as long as the reader likes.
    """

    begin_offset: int | None = None
    end_offset: int | None = None
    begin_ms: int | None = None
    end_ms: int | None = None
    follow: bool = False


WHOLE = Span()


class TopicSource:
    """The records of a span of a topic."""

    def __init__(self, log: Log, topic: str, span: Span, stop: asyncio.Event | None = None) -> None:
        self._log = log
        self._topic = topic
        self._span = span
        self._stop = stop or asyncio.Event()

    async def info(self) -> TopicInfo:
        """The topic. Raises TopicMissing."""
        return await topic_info(self._log, self._topic)

    async def batches(self) -> AsyncGenerator[list[Record], None]:
        """Records, in offset order within each partition; partitions merged by time, or as they come in `follow`."""
        info = await self.info()
        names = [TopicPartition(self._topic, p) for p in range(info.partitions)]
        begin, end = await self._limits(names)
        async with aclosing(self._as_they_come(begin) if self._span.follow else self._merged(begin, end)) as batches:
            async for batch in batches:
                if records := [record for record in batch if self._within(record)]:
                    yield records

    async def _as_they_come(self, begin: Mapping[TopicPartition, int]) -> AsyncGenerator[list[Record], None]:
        async with self._log.reader(begin) as reader:
            while not self._stop.is_set():
                for batch in await reader.read(timeout_s=_POLL_S):
                    yield list(batch.records)

    async def _merged(
        self, begin: Mapping[TopicPartition, int], end: Mapping[TopicPartition, int]
    ) -> AsyncGenerator[list[Record], None]:
        """One reader a partition, read only when nothing of it is at hand: memory stays bounded however they differ."""
        async with AsyncExitStack() as stack:
            readers = {name: await stack.enter_async_context(self._log.reader({name: begin[name]})) for name in begin}
            ahead = {name: _Ahead() for name in begin}
            while not self._stop.is_set():
                for name, part in ahead.items():
                    part.finished = readers[name].position(name) >= end[name]
                    if not part.records and not part.finished:
                        for batch in await readers[name].read(max_records=_BATCH, timeout_s=_POLL_S):
                            part.put([r for r in batch.records if r.offset < end[name]])
                        part.finished = readers[name].position(name) >= end[name]
                if records := _due(ahead.values()):
                    yield records
                elif all(part.finished for part in ahead.values()):
                    return

    async def _limits(
        self, names: Sequence[TopicPartition]
    ) -> tuple[Mapping[TopicPartition, int], Mapping[TopicPartition, int]]:
        """Where each partition's part begins and ends. Records of equal or later time may lie before others'."""
        kept = await self._log.offsets(names)
        begin = {name: kept[name].begin for name in names}
        end = {name: kept[name].end for name in names}
        span = self._span
        for name in names:
            if span.begin_ms is not None:
                begin[name] = await self._log.offset_at(name, span.begin_ms)
            if span.begin_offset is not None:
                begin[name] = min(max(begin[name], span.begin_offset), end[name])
            if span.end_offset is not None:
                end[name] = max(begin[name], min(end[name], span.end_offset))
        return begin, end

    def _within(self, record: Record) -> bool:
        span = self._span
        return (span.begin_ms is None or record.timestamp_ms >= span.begin_ms) and (
            span.end_ms is None or record.timestamp_ms < span.end_ms
        )


@dataclass(slots=True)
class _Ahead:
    """What has been read of a partition and not yet given. latest_ms: what later records of it are not before."""

    records: deque[tuple[int, Record]] = field(default_factory=deque)
    latest_ms: int | None = None
    finished: bool = False

    def put(self, records: Sequence[Record]) -> None:
        for record in records:
            latest_ms = record.timestamp_ms if self.latest_ms is None else max(self.latest_ms, record.timestamp_ms)
            self.latest_ms = latest_ms
            self.records.append((latest_ms, record))


def _due(parts: Collection[_Ahead]) -> list[Record]:
    """The records that nothing still unread can come before, in order of time."""
    unread = [part.latest_ms for part in parts if not part.finished]
    if any(latest_ms is None for latest_ms in unread):
        return []
    until_ms = min((latest_ms for latest_ms in unread if latest_ms is not None), default=None)
    due: list[tuple[int, Record]] = []
    for part in parts:
        while part.records and (until_ms is None or part.records[0][0] <= until_ms):
            due.append(part.records.popleft())
    due.sort(key=lambda item: item[0])
    return [record for _, record in due]


async def topic_info(log: Log, topic: str) -> TopicInfo:
    """The topic. Raises TopicMissing, naming those there are."""
    topics = await log.topics()
    if topic not in topics:
        raise TopicMissing(f"there is no topic {topic}; there are: {', '.join(sorted(topics)) or 'none'}")
    return topics[topic]
