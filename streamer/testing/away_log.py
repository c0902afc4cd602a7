"""A log that is away for the next few questions of a kind, as a broker that is being restarted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from streamer.errors import LogUnavailable
from streamer.log.base import Consumer, Log, OffsetRange, TopicInfo
from streamer.records import NewRecord, TopicPartition
from streamer.testing.passing import PassingConsumer, PassingLog


class AwayLog(PassingLog):
    """`log`, whose `topics`, `offsets`, `append` and `join` are refused so many times, each by its name."""

    def __init__(self, log: Log, **refusals: int) -> None:
        super().__init__(log)
        self.refusals = Counter(refusals)

    def ask(self, what: str) -> None:
        """Raises LogUnavailable as long as this is to be refused."""
        if self.refusals[what] > 0:
            self.refusals[what] -= 1
            raise LogUnavailable(f"away: {what}")

    async def topics(self) -> Mapping[str, TopicInfo]:
        self.ask("topics")
        return await super().topics()

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> int:
        self.ask("append")
        return await super().append(topic, partition, records)

    async def offsets(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, OffsetRange]:
        self.ask("offsets")
        return await super().offsets(partitions)

    def consumer(self, group: str, topics: Sequence[str]) -> Consumer:
        return _AwayConsumer(self, super().consumer(group, topics))


class _AwayConsumer(PassingConsumer):
    def __init__(self, log: AwayLog, consumer: Consumer) -> None:
        super().__init__(consumer)
        self._log = log

    async def __aenter__(self) -> Self:
        self._log.ask("join")
        return await super().__aenter__()
