"""A log that dies in the middle of a commit, for tests of recovery. Wraps any log; what was written stays written.

A commit is taken apart into the writes of the at-least-once order (DESIGN.md rule 9): every batch of outputs, then
states, floor, offset and tombstones. After a given number of writes the next one raises `Died`, as a killed process
would: nothing of it or behind it is written. Records with the key `MARKER` are never delivered, as Kafka's transaction
markers are not: their offsets are holes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from streamer.log.base import (
    DEFAULT_MAX_RECORDS,
    Commit,
    Committed,
    Consumer,
    ConsumerEvent,
    Log,
    OffsetRange,
    Reader,
    Revoked,
    TopicInfo,
    TopicSpec,
)
from streamer.records import NewRecord, RecordBatch, TopicPartition

MARKER = b"\x00marker"
Trace = TracebackType | None


class Died(Exception):
    """The moment at which the process is killed."""


class BrokenLog:
    """`log` until `writes` writes of commits were made; None never dies. `written` counts them."""

    def __init__(self, log: Log, writes: int | None = None) -> None:
        self.log = log
        self.written = 0
        self._writes = writes

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Trace) -> None:
        pass  # the wrapped log belongs to who made it

    async def create_topics(self, specs: Iterable[TopicSpec]) -> None:
        await self.log.create_topics(specs)

    async def delete_topics(self, names: Iterable[str]) -> None:
        await self.log.delete_topics(names)

    async def topics(self) -> Mapping[str, TopicInfo]:
        return await self.log.topics()

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int:
        return await self.log.append(topic, partition, records)

    async def offsets(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, OffsetRange]:
        return await self.log.offsets(partitions)

    async def offset_at(self, partition: TopicPartition, timestamp_ms: int) -> int:
        return await self.log.offset_at(partition, timestamp_ms)

    def reader(self, start: Mapping[TopicPartition, int]) -> Reader:
        return self.log.reader(start)

    def consumer(self, group: str, topics: Sequence[str]) -> Consumer:
        return _BrokenConsumer(self, self.log.consumer(group, topics))

    def count_write(self) -> None:
        """Count a write that is about to be made. Raises Died when it is one too many."""
        if self._writes is not None and self.written >= self._writes:
            raise Died(f"killed before write {self.written}")
        self.written += 1


class _BrokenConsumer:
    """A consumer whose commits are single writes and whose batches have holes."""

    def __init__(self, log: BrokenLog, consumer: Consumer) -> None:
        self._log = log
        self._consumer = consumer

    async def __aenter__(self) -> Self:
        await self._consumer.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Trace) -> None:
        await self._consumer.__aexit__(kind, error, trace)

    async def read(self, *, max_records: int = DEFAULT_MAX_RECORDS, timeout_s: float = 0.0) -> list[ConsumerEvent]:
        events = await self._consumer.read(max_records=max_records, timeout_s=timeout_s)
        return [_without_markers(event) if isinstance(event, RecordBatch) else event for event in events]

    def position(self, partition: TopicPartition) -> int:
        return self._consumer.position(partition)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._consumer.seek(partition, offset)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._consumer.pause(partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._consumer.resume(partitions)

    async def committed(self, partition: TopicPartition) -> Committed | None:
        return await self._consumer.committed(partition)

    async def commit(self, commits: Sequence[Commit]) -> None:
        """Every batch is a write of its own, in the order of `Commit`. Raises Died."""
        for commit in commits:
            for topic, partition, records in (*commit.outputs, *commit.states, *commit.floor):
                self._log.count_write()
                await self._log.append(topic, partition, records)
            self._log.count_write()
            await self._consumer.commit([Commit(commit.partition, commit.offset, commit.metadata)])
            for topic, partition, records in commit.tombstones:
                self._log.count_write()
                await self._log.append(topic, partition, records)

    def settled(self, revoked: Revoked) -> None:
        self._consumer.settled(revoked)


def _without_markers(batch: RecordBatch) -> RecordBatch:
    return RecordBatch(batch.partition, [r for r in batch.records if r.key != MARKER], batch.next_offset)
