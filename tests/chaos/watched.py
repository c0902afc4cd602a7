"""The Kafka log with a watch on it: what the worker does with it is said on a board, answers can be lost, and the
worker can be told to die at a step of its next commit.

Nothing of what is committed, nor when, is changed, except by a loss or a death that was ordered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
from streamer.worker.topics import changelog_of
from tests.chaos.phases import Watch
from tests.chaos.steps import Step


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


Member = Callable[[KafkaOptions, KafkaTopics, KafkaPublisher, str, Sequence[str], Watch], WatchedConsumer]


class WatchedLog(KafkaLog):
    """watch_of: the watch on a group's member, by the group's name. member: makes the members."""

    def __init__(
        self, options: KafkaOptions, watch_of: Callable[[str], Watch], *, member: Member = WatchedConsumer
    ) -> None:
        super().__init__(options)
        self._watch_of = watch_of
        self._member = member

    def consumer(self, group: str, topics: Sequence[str]) -> KafkaConsumer:
        return self._member(self._options, self._topics, self._publisher, group, topics, self._watch_of(group))


@dataclass(slots=True)
class _Content:
    """What a transaction carries. states: how many batches of them; sent: what is on its way, outputs first."""

    outputs: int = 0
    states: int = 0
    sent: list[asyncio.Future[Any]] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether there is something to lose at every step."""
        return self.outputs > 0 and self.states > 0


class WatchedTransactions(Transactions):
    """Transactions that say when they begin and when their end is asked for, and at whose steps a worker can die."""

    def __init__(self, options: KafkaOptions, group: str, watch: Watch) -> None:
        super().__init__(options, group)
        self._watch = watch
        self._content: dict[TopicPartition, _Content] = {}

    async def run(self, name: TopicPartition, offset: int, metadata: str, appends: Sequence[Prepared]) -> None:
        self._content[name] = _content(appends, changelog_of(self._group, name.topic))
        known = False
        try:
            await super().run(name, offset, metadata, appends)
            known = True
        finally:
            self._watch.closed(name, known=known)

    async def _started(self, name: TopicPartition) -> Any:
        """The client's producer, whose calls of a transaction are watched."""
        producer: Any = await super()._started(name)
        producer.begin_transaction = partial(self._begin, name, producer.begin_transaction)
        producer.send_offsets_to_transaction = partial(self._offsets, name, producer.send_offsets_to_transaction)
        producer.send_batch = partial(self._send, name, producer.send_batch)
        producer.commit_transaction = partial(self._end, name, producer.commit_transaction)
        return producer

    async def _begin(self, name: TopicPartition, begin: Callable[[], Any]) -> None:
        self._at(name, Step.BEFORE_BEGIN)
        await begin()
        self._watch.opened(name)
        self._at(name, Step.AFTER_BEGIN)

    async def _offsets(self, name: TopicPartition, send: Callable[..., Any], *arguments: Any) -> None:
        await send(*arguments)
        self._at(name, Step.AFTER_OFFSETS)

    async def _send(self, name: TopicPartition, send: Callable[..., Any], *batch: Any, partition: int) -> Any:
        content = self._content[name]
        future = await send(*batch, partition=partition)
        content.sent.append(future)
        for step, batches in (
            (Step.AFTER_OUTPUTS, content.outputs),
            (Step.AFTER_STATES, content.outputs + content.states),
        ):
            if len(content.sent) == batches and self._watch.trap is step and content.whole:
                await asyncio.gather(*content.sent)  # the client would send the next ones beside them
                self._at(name, step)
        return future

    async def _end(self, name: TopicPartition, end: Callable[[], Any]) -> None:
        self._at(name, Step.BEFORE_END)
        self._watch.ending(name)
        happens = self._watch.losses.pop() if self._watch.losses else None
        if happens is not False:
            await end()
            self._at(name, Step.AFTER_END)
        if happens is not None:
            raise KafkaTimeoutError

    def _at(self, name: TopicPartition, step: Step) -> None:
        if self._content[name].whole:
            self._watch.at(step)


def _content(appends: Sequence[Prepared], changelog: str) -> _Content:
    """Outputs come first, then the states, then the floor and the tombstones (`ExactCommits`)."""
    content = _Content()
    for append in appends:
        if append.partition.topic != changelog:
            content.outputs += len(append.batches)
        elif any(record.value is not None and not (record.key or b"").startswith(b"\0") for record in append.records):
            content.states += len(append.batches)  # no stream's id begins with a zero byte
    return content
