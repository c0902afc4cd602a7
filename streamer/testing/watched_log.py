"""A log that remembers what its consumers were given, committed and paused, for tests of what is held in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from streamer.log.base import DEFAULT_MAX_RECORDS, Assigned, Commit, Consumer, ConsumerEvent, Log, Revoked
from streamer.records import RecordBatch, TopicPartition
from streamer.testing.passing import PassingConsumer, PassingLog

PATIENCE_S = 30.0


class WatchedLog(PassingLog):
    """`log`, all its consumers watched together.

    paused: partitions that deliver nothing. delivered: records given by reads; delivered_bytes: their values' bytes.
    reads: how many reads came back; empty_reads: those of them that gave nothing. barriers: partitions that came and
    went. commits: all that were made.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.paused: set[TopicPartition] = set()
        self.delivered = self.delivered_bytes = self.reads = self.empty_reads = 0
        self.barriers: list[Assigned | Revoked] = []
        self.commits: list[Commit] = []
        self._moved = asyncio.Event()

    def consumer(self, group: str, topics: Sequence[str]) -> Consumer:
        return _WatchedConsumer(self, self.log.consumer(group, topics))

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait until `done`, looking again whenever something happened. Raises TimeoutError after `PATIENCE_S`."""
        async with asyncio.timeout(PATIENCE_S):
            while not done():
                self._moved.clear()
                await self._moved.wait()

    def happened(self) -> None:
        """Something was read, committed, paused or resumed."""
        self._moved.set()

    def saw(self, events: Sequence[ConsumerEvent]) -> None:
        """A read came back."""
        records = [record for event in events if isinstance(event, RecordBatch) for record in event.records]
        self.barriers += [event for event in events if not isinstance(event, RecordBatch)]
        self.reads += 1
        self.empty_reads += not events
        self.delivered += len(records)
        self.delivered_bytes += sum(len(record.value or b"") for record in records)
        self.happened()


class _WatchedConsumer(PassingConsumer):
    def __init__(self, log: WatchedLog, consumer: Consumer) -> None:
        super().__init__(consumer)
        self._log = log

    async def read(self, *, max_records: int = DEFAULT_MAX_RECORDS, timeout_s: float = 0.0) -> list[ConsumerEvent]:
        events = await super().read(max_records=max_records, timeout_s=timeout_s)
        self._log.saw(events)
        return events

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        named = list(partitions)
        super().pause(named)
        self._log.paused.update(named)
        self._log.happened()

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        named = list(partitions)
        super().resume(named)
        self._log.paused.difference_update(named)
        self._log.happened()

    async def commit(self, commits: Sequence[Commit]) -> None:
        await super().commit(commits)
        self._log.commits += commits
        self._log.happened()
