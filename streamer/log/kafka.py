"""The log on Apache Kafka: the distributed one. Helpers beside it know the client's habits; this is the protocol.

A commit here is at least once: outputs, states, floor, offsets, tombstones, each stage awaited before the next
(DESIGN.md rule 9). Readers see only what is committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from aiokafka import TopicPartition as ClientPartition

from streamer.errors import LogError
from streamer.log.base import Committed, OffsetRange, TopicInfo, TopicSpec
from streamer.log.kafka_calm import stop_client
from streamer.log.kafka_connection import KafkaOptions, translating
from streamer.log.kafka_consumer import KafkaConsumer
from streamer.log.kafka_publish import KafkaPublisher
from streamer.log.kafka_reader import KafkaReader, new_client, start_client
from streamer.log.kafka_topics import KafkaTopics
from streamer.log.topics import topic_missing
from streamer.records import Append, NewRecord, TopicPartition

__all__ = ["KafkaLog", "KafkaOptions"]


class KafkaLog:
    """Topics on a Kafka cluster. Entering it connects; raises LogUnavailable when nothing answers."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options

    async def __aenter__(self) -> Self:
        self._topics = KafkaTopics(self._options)
        self._publisher = KafkaPublisher(self._options, self._topics)
        self._client = new_client(self._options)
        try:
            await self._topics.start()
            with translating(self._options, "connect"):
                await start_client(self._client)
        except LogError:
            await self._topics.stop()
            await stop_client(self._client)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._publisher.stop()
        await stop_client(self._client)
        await self._topics.stop()

    async def create_topics(self, specs: Iterable[TopicSpec]) -> None:
        """Create what is missing, ready to use. Raises TopicMismatch, PermissionDenied, LogUnavailable."""
        await self._topics.create(specs)

    async def delete_topics(self, names: Iterable[str]) -> None:
        """Delete topics with their records; unknown names are passed over."""
        await self._topics.delete(names)

    async def topics(self) -> Mapping[str, TopicInfo]:
        """All topics this user may see, Kafka's own left out."""
        return await self._topics.all()

    async def partition_counts(self, names: Iterable[str]) -> Mapping[str, int]:
        """How many partitions these topics have now; missing ones are left out. Raises LogUnavailable."""
        return await self._topics.partition_counts(list(names))

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int:
        """Append a batch durably (acks=all); returns the first record's offset."""
        batch = Append(topic, partition, records)
        prepared = await self._publisher.prepare([batch])
        if not records:
            name = TopicPartition(topic, partition)
            return (await self.offsets([name]))[name].end
        return (await self._publisher.publish(prepared))[0]

    async def offsets(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, OffsetRange]:
        """What is kept of each partition; `end` is the last stable offset."""
        names = list(partitions)
        await self._check(names)
        wanted = [ClientPartition(*name) for name in names]
        with translating(self._options, f"look for the offsets of {', '.join(map(str, names))}"):
            begins = await self._client.beginning_offsets(wanted)
            ends = await self._client.end_offsets(wanted)
        return {TopicPartition(*name): OffsetRange(begins[name], ends[name]) for name in wanted}

    async def offset_at(self, partition: TopicPartition, timestamp_ms: int) -> int:
        """The first offset with this time or a later one, else the end."""
        await self._check([partition])
        name = ClientPartition(*partition)
        with translating(self._options, f"look for a time in {partition}"):
            found = (await self._client.offsets_for_times({name: timestamp_ms}))[name]
            return int((await self._client.end_offsets([name]))[name] if found is None else found.offset)

    async def committed(self, group: str, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, Committed]:
        """What a group has committed, an open transaction's offsets not among it. Raises PermissionDenied."""
        return await self._topics.committed(group, list(partitions))

    def reader(self, start: Mapping[TopicPartition, int]) -> KafkaReader:
        """A reader of given partitions from given offsets, in no group."""
        return KafkaReader(self._options, self._topics, start)

    def consumer(self, group: str, topics: Sequence[str]) -> KafkaConsumer:
        """A new member of `group`; it joins when its context is entered."""
        return KafkaConsumer(self._options, self._topics, self._publisher, group, topics)

    async def _check(self, partitions: Iterable[TopicPartition]) -> None:
        """Raises TopicMissing: the client would ask for ever."""
        for partition in partitions:
            info = await self._topics.info(partition.topic)
            if not 0 <= partition.partition < info.partitions:
                raise topic_missing(partition, f"Kafka at {self._options.bootstrap_servers}")
