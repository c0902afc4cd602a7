"""A log that dies in the middle of a commit, for tests of recovery. Wraps any log; what was written stays written.

A commit is taken apart into the writes of the at-least-once order (DESIGN.md rule 9): every batch of outputs, then
states, floor, offset and tombstones. After a given number of writes the next one raises `Died`, as a killed process
would: nothing of it or behind it is written. With `atomic` a whole commit is one write, as on a log with transactions.
Records with the key `MARKER` are never delivered, as Kafka's transaction
markers are not: their offsets are holes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from streamer.log.base import DEFAULT_MAX_RECORDS, Commit, Consumer, ConsumerEvent, Log
from streamer.records import Append, RecordBatch
from streamer.testing.passing import PassingConsumer, PassingLog

MARKER = b"\x00marker"


class Died(Exception):
    """The moment at which the process is killed."""


class BrokenLog(PassingLog):
    """`log` until `writes` writes of commits were made; None never dies. `written` counts them.

    meanwhile: what others do before each write, by its number. left: what a process that was not killed but paused
    would still append when it wakes, before or after the offset that its group then refuses.
    """

    def __init__(
        self,
        log: Log,
        writes: int | None = None,
        *,
        atomic: bool = False,
        meanwhile: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(log)
        self.written = 0
        self.atomic = atomic
        self.left: Sequence[Append] = ()
        self._writes = writes
        self._meanwhile = meanwhile

    def consumer(self, group: str, topics: Sequence[str]) -> Consumer:
        return _BrokenConsumer(self, self.log.consumer(group, topics))

    async def count_write(self, left: Sequence[Append] = ()) -> None:
        """Count a write that is about to be made. Raises Died when it is one too many; `left` is then what it says."""
        if self._meanwhile is not None:
            await self._meanwhile(self.written)
        if self._writes is not None and self.written >= self._writes:
            self.left = left
            raise Died(f"killed before write {self.written}")
        self.written += 1

    async def wake(self, writes: int) -> None:
        """The paused process goes on until it learns that it owns nothing any more, or is killed after some writes."""
        for topic, partition, records in self.left[:writes]:
            await self.log.append(topic, partition, records)


class _BrokenConsumer(PassingConsumer):
    """A consumer whose commits are single writes and whose batches have holes."""

    def __init__(self, log: BrokenLog, consumer: Consumer) -> None:
        super().__init__(consumer)
        self._log = log

    @property
    def transactional(self) -> bool:
        """Whether a commit is one write."""
        return self._log.atomic

    async def read(self, *, max_records: int = DEFAULT_MAX_RECORDS, timeout_s: float = 0.0) -> list[ConsumerEvent]:
        events = await super().read(max_records=max_records, timeout_s=timeout_s)
        return [_without_markers(event) if isinstance(event, RecordBatch) else event for event in events]

    async def commit(self, commits: Sequence[Commit]) -> None:
        """Every batch is a write of its own, in the order of `Commit`. Raises Died."""
        if self._log.atomic:
            await self._log.count_write()
            await super().commit(commits)
        else:
            for commit in commits:
                await self._commit_in_writes(commit)

    async def _commit_in_writes(self, commit: Commit) -> None:
        before = (*commit.outputs, *commit.states, *commit.floor)
        await self._append(before)
        await self._log.count_write()
        await super().commit([Commit(commit.partition, commit.offset, commit.metadata)])
        await self._append(commit.tombstones)

    async def _append(self, batches: Sequence[Append]) -> None:
        for done, (topic, partition, records) in enumerate(batches):
            await self._log.count_write(batches[done:])
            await self._log.append(topic, partition, records)


def _without_markers(batch: RecordBatch) -> RecordBatch:
    return RecordBatch(batch.partition, [r for r in batch.records if r.key != MARKER], batch.next_offset)
