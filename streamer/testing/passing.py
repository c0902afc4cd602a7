"""A log that passes everything on to another: what doubles override that watch, hold or break one thing of it."""

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
from streamer.records import NewRecord, TopicPartition

Trace = TracebackType | None


class PassingLog:
    """`log`, which belongs to who made it: leaving this one does not close it."""

    def __init__(self, log: Log) -> None:
        self.log = log

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Trace) -> None:
        pass

    async def create_topics(self, specs: Iterable[TopicSpec]) -> None:
        await self.log.create_topics(specs)

    async def delete_topics(self, names: Iterable[str]) -> None:
        await self.log.delete_topics(names)

    async def topics(self) -> Mapping[str, TopicInfo]:
        return await self.log.topics()

    async def partition_counts(self, names: Iterable[str]) -> Mapping[str, int]:
        return await self.log.partition_counts(names)

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int:
        return await self.log.append(topic, partition, records)

    async def offsets(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, OffsetRange]:
        return await self.log.offsets(partitions)

    async def offset_at(self, partition: TopicPartition, timestamp_ms: int) -> int:
        return await self.log.offset_at(partition, timestamp_ms)

    async def committed(self, group: str, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Committed]:
        return await self.log.committed(group, partitions)

    def reader(self, start: Mapping[TopicPartition, int]) -> Reader:
        return self.log.reader(start)

    def consumer(self, group: str, topics: Sequence[str]) -> Consumer:
        return self.log.consumer(group, topics)


class PassingConsumer:
    """`consumer`, whose context is entered and left with this one's."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer

    async def __aenter__(self) -> Self:
        await self.consumer.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Trace) -> None:
        await self.consumer.__aexit__(kind, error, trace)

    async def read(self, *, max_records: int = DEFAULT_MAX_RECORDS, timeout_s: float = 0.0) -> list[ConsumerEvent]:
        return await self.consumer.read(max_records=max_records, timeout_s=timeout_s)

    def position(self, partition: TopicPartition) -> int:
        return self.consumer.position(partition)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.consumer.seek(partition, offset)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self.consumer.pause(partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self.consumer.resume(partitions)

    @property
    def transactional(self) -> bool:
        return self.consumer.transactional

    async def committed(self, partition: TopicPartition) -> Committed | None:
        return await self.consumer.committed(partition)

    async def commit(self, commits: Sequence[Commit]) -> None:
        await self.consumer.commit(commits)

    def settled(self, revoked: Revoked) -> None:
        self.consumer.settled(revoked)
