"""Mistakes planted between a worker and its log, which the comparison must find: what the commit's rules forbid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Self

from streamer.log.base import Commit
from streamer.log.kafka_connection import Delivery
from streamer.log.kafka_consumer import KafkaConsumer
from streamer.records import Append, NewRecord, TopicPartition
from streamer.worker.progress import FLOOR_KEY, floor_of
from tests.chaos.compare import Fault
from tests.chaos.steps import Step
from tests.chaos.watched import Member, WatchedConsumer

Mistake = Literal["offset before output", "state ahead", "floor too high"]


class OffsetFirst(WatchedConsumer):
    """The offset is committed before the outputs, in a transaction of its own."""

    async def commit(self, commits: Sequence[Commit]) -> None:
        await super().commit([Commit(commit.partition, commit.offset, commit.metadata) for commit in commits])
        if any(commit.outputs for commit in commits):
            self._watch.at(Step.MISTAKEN)
        await super().commit(commits)


class StateAhead(WatchedConsumer):
    """A commit's states are written before its outputs and its offset: they contain records whose outputs nobody has
    been given, and which no re-run will step again.

    Outside transactions: in them a state beyond the committed offset is refused when it is restored.
    """

    async def commit(self, commits: Sequence[Commit]) -> None:
        for commit in commits:
            at = await KafkaConsumer.committed(self, commit.partition)
            if commit.states and commit.outputs and at is not None:
                states = Commit(commit.partition, at.offset, commit.metadata, states=commit.states)
                await KafkaConsumer.commit(self, [states])
                self._watch.at(Step.MISTAKEN)
        await super().commit(commits)


class FloorTooHigh(WatchedConsumer):
    """The replay floor is the committed offset, whatever the states contain: a re-run leaves out what they lack."""

    _right: dict[TopicPartition, int]
    _written: dict[TopicPartition, int]

    async def __aenter__(self) -> Self:
        self._right, self._written = {}, {}
        return await super().__aenter__()

    async def commit(self, commits: Sequence[Commit]) -> None:
        await super().commit([replace(commit, floor=self._raised(commit)) for commit in commits])
        if any(commit.outputs and self._too_high(commit.partition) for commit in commits):
            self._watch.at(Step.MISTAKEN)

    def _raised(self, commit: Commit) -> Sequence[Append]:
        return [a._replace(records=[self._too_high_in(commit, record) for record in a.records]) for a in commit.floor]

    def _too_high_in(self, commit: Commit, record: NewRecord) -> NewRecord:
        if record.key != FLOOR_KEY:
            return record
        self._right[commit.partition], self._written[commit.partition] = floor_of(record.value), commit.offset
        return record._replace(value=b"%d" % commit.offset)

    def _too_high(self, partition: TopicPartition) -> bool:
        return partition in self._right and self._right[partition] < self._written[partition]


MEMBERS: dict[Mistake | None, Member] = {
    None: WatchedConsumer,
    "offset before output": OffsetFirst,
    "state ahead": StateAhead,
    "floor too high": FloorTooHigh,
}

DELIVERY: Mapping[Mistake | None, Delivery] = {"state ahead": "at_least_once"}
"""Where it is another than exactly once."""
FOUND_BY: Mapping[Mistake, Fault] = {
    "offset before output": "lost",
    "state ahead": "lost",
    "floor too high": "changed",
}
"""The difference that each must make; others may come with it."""
