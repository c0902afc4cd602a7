"""The Kafka log with a watch on it: what the worker does with it is said on a board, and answers can be lost.

Nothing of what is committed, nor when, is changed, except by a loss that was ordered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

from aiokafka.errors import KafkaTimeoutError

from streamer.log.base import DEFAULT_MAX_RECORDS, Assigned, Commit, Committed, ConsumerEvent, Revoked
from streamer.log.kafka import KafkaLog
from streamer.log.kafka_connection import KafkaOptions
from streamer.log.kafka_consumer import KafkaConsumer
from streamer.log.kafka_exact import ExactCommits
from streamer.log.kafka_publish import KafkaPublisher, Prepared
from streamer.log.kafka_topics import KafkaTopics
from streamer.log.kafka_transactions import Transactions
from streamer.records import TopicPartition
from tests.chaos.phases import Watch


class WatchedLog(KafkaLog):
    """watch_of: the watch on a group's member, by the group's name. planted: a mistake to be found."""

    def __init__(self, options: KafkaOptions, watch_of: Callable[[str], Watch], *, planted: bool = False) -> None:
        super().__init__(options)
        self._watch_of = watch_of
        self._member = OffsetFirst if planted else WatchedConsumer

    def consumer(self, group: str, topics: Sequence[str]) -> KafkaConsumer:
        return self._member(self._options, self._topics, self._publisher, group, topics, self._watch_of(group))


class WatchedConsumer(KafkaConsumer):
    """A member of a group whose phase is followed."""

    def __init__(
        self,
        options: KafkaOptions,
        topics: KafkaTopics,
        publisher: KafkaPublisher,
        group: str,
        subscription: Sequence[str],
        watch: Watch,
    ) -> None:
        super().__init__(options, topics, publisher, group, subscription)
        self._watch = watch
        if self._exactly is not None:
            self._exactly = ExactCommits(options, publisher, group, self, WatchedTransactions(options, group, watch))

    async def __aenter__(self) -> Self:
        self._watch.joining()
        return await super().__aenter__()

    async def read(self, *, max_records: int = DEFAULT_MAX_RECORDS, timeout_s: float = 0.0) -> list[ConsumerEvent]:
        events = await super().read(max_records=max_records, timeout_s=timeout_s)
        for event in events:
            if isinstance(event, Assigned):
                for partition in event.partitions:
                    self._watch.assigned(partition)
        return events

    def settled(self, revoked: Revoked) -> None:
        super().settled(revoked)
        self._watch.joining()  # every rebalance revokes everything

    async def committed(self, partition: TopicPartition) -> Committed | None:
        found = await super().committed(partition)
        self._watch.read_committed(partition, found)
        return found

    def seek(self, partition: TopicPartition, offset: int) -> None:
        super().seek(partition, offset)
        self._watch.begins_at(partition, offset)

    async def commit(self, commits: Sequence[Commit]) -> None:
        await super().commit(commits)
        for commit in commits:
            self._watch.committed(commit)


class OffsetFirst(WatchedConsumer):
    """The planted mistake: the offset is committed before the outputs."""

    async def commit(self, commits: Sequence[Commit]) -> None:
        for commit in commits:
            self._watch.opened(commit.partition)
        await KafkaConsumer.commit(
            self, [Commit(commit.partition, commit.offset, commit.metadata) for commit in commits]
        )
        await super().commit(commits)


class WatchedTransactions(Transactions):
    """Transactions that say when they begin and when their end is asked for."""

    def __init__(self, options: KafkaOptions, group: str, watch: Watch) -> None:
        super().__init__(options, group)
        self._watch = watch

    async def run(self, name: TopicPartition, offset: int, metadata: str, appends: Sequence[Prepared]) -> None:
        self._watch.opened(name)
        known = False
        try:
            await super().run(name, offset, metadata, appends)
            known = True
        finally:
            self._watch.closed(name, known=known)

    async def _started(self, name: TopicPartition) -> Any:
        """The client's producer, whose last call of a transaction is watched."""
        producer: Any = await super()._started(name)
        producer.commit_transaction = partial(self._end, name, producer.commit_transaction)
        return producer

    async def _end(self, name: TopicPartition, end: Callable[[], Any]) -> None:
        self._watch.ending(name)
        happens = self._watch.losses.pop() if self._watch.losses else None
        if happens is not False:
            await end()
        if happens is not None:
            raise KafkaTimeoutError
